-- Who may see whose rows, and the tables that exist before a tenant is known.

-- Functions of this owner are for nobody until a grant says otherwise.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- As `schemas.ids.is_tenant_id`. A bounded repeat ({0,62}) would cost eight times as much, on every row written.
CREATE FUNCTION app.is_tenant_id(candidate text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN candidate ~ '^[A-Za-z0-9][A-Za-z0-9_-]*$' AND octet_length(candidate) <= 63;

-- Names the tenants of this transaction, once. A second call is refused because a savepoint's RELEASE would
-- carry an inner tenant to the outer transaction.
CREATE FUNCTION app.set_tenants(tenant_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
BEGIN
    IF coalesce(current_setting('app.tenants', true), '') <> '' THEN
        RAISE EXCEPTION 'TENANT_CONTEXT_ALREADY_SET' USING ERRCODE = '28000';
    END IF;
    IF coalesce(cardinality(tenant_ids), 0) = 0 OR EXISTS (
        SELECT FROM unnest(tenant_ids) AS t (tenant_id)
        WHERE NOT coalesce(app.is_tenant_id(tenant_id), false)
    ) THEN
        RAISE EXCEPTION 'TENANT_CONTEXT_INVALID' USING ERRCODE = '28000';
    END IF;
    PERFORM set_config('app.tenants', array_to_string(tenant_ids, ','), true);
END
$$;

-- The tenants named in this transaction. A setting that was ever set reads '' after its transaction, not NULL.
CREATE FUNCTION app.tenants() RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    named text[] := string_to_array(nullif(current_setting('app.tenants', true), ''), ',');
BEGIN
    IF named IS NULL THEN
        RAISE EXCEPTION 'TENANT_CONTEXT_MISSING' USING ERRCODE = '28000';
    END IF;
    IF cardinality(named) > 1 AND current_user <> 'fg_worker' THEN
        RAISE EXCEPTION 'TENANT_CONTEXT_TOO_WIDE' USING ERRCODE = '28000';
    END IF;
    RETURN named;
END
$$;

-- Row-level security for one table or partition: forced, one policy that permits and one that nothing can widen.
-- `sinks/attest.sql` holds every policy to this text.
CREATE FUNCTION app.protect(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
DECLARE
    rule text := 'USING (tenant_id = ANY ((SELECT app.tenants())::text[]))'
        ' WITH CHECK (tenant_id = ANY ((SELECT app.tenants())::text[]))';
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant_rows ON %s FOR ALL TO fg_edge, fg_worker, fg_admin %s', target, rule);
    EXECUTE format('CREATE POLICY tenant_wall ON %s AS RESTRICTIVE FOR ALL TO PUBLIC %s', target, rule);
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT tenant_id_form CHECK (app.is_tenant_id(tenant_id))', target);
END
$$;

CREATE FUNCTION app.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = '42501';
END
$$;

GRANT EXECUTE ON FUNCTION app.is_tenant_id(text), app.set_tenants(text[]), app.tenants() TO fg_edge, fg_worker, fg_admin;
GRANT SELECT ON schema_migrations TO fg_edge, fg_worker, fg_admin;

-- Exempt from row-level security: the list of tenants itself.
CREATE TABLE tenants (
    tenant_id text PRIMARY KEY CHECK (app.is_tenant_id(tenant_id)),
    plan_tier text NOT NULL DEFAULT 'free' CHECK (plan_tier IN ('free', 'pro', 'enterprise')),
    created_at timestamptz(3) NOT NULL DEFAULT now()
);
GRANT SELECT ON tenants TO fg_edge, fg_worker, fg_admin;
GRANT INSERT (tenant_id, plan_tier), UPDATE (plan_tier) ON tenants TO fg_admin;

-- Exempt from row-level security: a key is looked up before its tenant is known.
CREATE TABLE api_keys (
    key_id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants,
    agent_id text,
    key_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(key_sha256) = 32),
    scopes text[] NOT NULL,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    revoked_at timestamptz(3)
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id);
GRANT SELECT ON api_keys TO fg_edge, fg_admin;
GRANT INSERT (key_id, tenant_id, agent_id, key_sha256, scopes), UPDATE (revoked_at) ON api_keys TO fg_admin;

-- Exempt from row-level security: public keys, which verifiers of any tenant need.
CREATE TABLE signing_keys (
    key_id text PRIMARY KEY,
    tenant_id text,
    kind text NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    not_after timestamptz(3)
);
GRANT SELECT ON signing_keys TO fg_edge, fg_worker, fg_admin;
GRANT INSERT (key_id, tenant_id, kind, public_key, not_after), UPDATE (not_after) ON signing_keys TO fg_admin;
