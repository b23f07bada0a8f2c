-- Dead letters, limits, meters and what operators did.

CREATE TABLE ingest_dlq (
    id bigserial PRIMARY KEY,
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    reason_code text NOT NULL,
    trace_id varchar(36) NOT NULL,
    stage text NOT NULL,
    stream text NOT NULL,
    seq bigint NOT NULL,
    payload_json jsonb NOT NULL,
    retry_count integer NOT NULL DEFAULT 0,
    first_seen_at timestamptz(3) NOT NULL,
    last_seen_at timestamptz(3) NOT NULL,
    UNIQUE (tenant_id, event_id, reason_code)
);
SELECT app.protect('ingest_dlq');
GRANT SELECT ON ingest_dlq TO fg_edge, fg_admin;
GRANT SELECT, INSERT, UPDATE (stage, stream, seq, retry_count, last_seen_at) ON ingest_dlq TO fg_worker;
GRANT USAGE ON SEQUENCE ingest_dlq_id_seq TO fg_worker;

-- The text as jsonb, NULL where jsonb cannot hold it (a NUL, a lone surrogate, a number out of range, broken JSON):
-- a dead letter must be storable whatever it is.
CREATE FUNCTION app.jsonb_or_null(candidate text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = '' AS $$
BEGIN
    RETURN candidate::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
GRANT EXECUTE ON FUNCTION app.jsonb_or_null(text) TO fg_worker;

CREATE TABLE tenant_runtime_limits (
    tenant_id text PRIMARY KEY,
    plan_tier text NOT NULL CHECK (plan_tier IN ('free', 'pro', 'enterprise')),
    ingest_rps integer NOT NULL CHECK (ingest_rps > 0),
    burst integer NOT NULL CHECK (burst > 0),
    updated_at timestamptz(3) NOT NULL DEFAULT now(),
    updated_by text NOT NULL
);
SELECT app.protect('tenant_runtime_limits');
GRANT SELECT ON tenant_runtime_limits TO fg_edge, fg_worker;
GRANT SELECT, INSERT, UPDATE (plan_tier, ingest_rps, burst, updated_at, updated_by) ON tenant_runtime_limits TO fg_admin;

CREATE TABLE usage_meters (
    tenant_id text NOT NULL,
    meter text NOT NULL,
    day date NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (tenant_id, meter, day)
) WITH (fillfactor = 50);
SELECT app.protect('usage_meters');
GRANT SELECT ON usage_meters TO fg_edge, fg_admin;
GRANT SELECT, INSERT, UPDATE (value) ON usage_meters TO fg_worker;

CREATE TABLE operator_actions (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    operator text NOT NULL,
    action text NOT NULL,
    details jsonb NOT NULL,
    done_at timestamptz(3) NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, action_id)
);
SELECT app.protect('operator_actions');
GRANT SELECT ON operator_actions TO fg_edge, fg_worker;
GRANT SELECT, INSERT ON operator_actions TO fg_admin;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_actions
    FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();
