-- The policies are asked row by row, so a write to an empty table met none of them and answered "no rows". Every table
-- with tenants asks once per statement besides: a write without a named tenant is refused whatever the table holds.

-- Asks wherever the policies bind: neither of a superuser, nor when the server itself follows a foreign key. Runs with
-- every statement that writes, so it has no search path of its own, half of what it would cost: each name is whole.
CREATE FUNCTION app.require_tenants() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.row_security_active(TG_RELID) THEN
        PERFORM app.tenants();
    END IF;
    RETURN NULL;
END
$$;

-- As before, with that trigger. Of a table and its partitions only the one that the statement names asks.
CREATE OR REPLACE FUNCTION app.protect(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
DECLARE
    rule text := 'USING (tenant_id = ANY ((SELECT app.tenants())::text[]))'
        ' WITH CHECK (tenant_id = ANY ((SELECT app.tenants())::text[]))';
    roles text := 'fg_edge, fg_worker, fg_admin, fg_retention';
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant_rows ON %s FOR ALL TO %s %s', target, roles, rule);
    EXECUTE format('CREATE POLICY tenant_wall ON %s AS RESTRICTIVE FOR ALL TO PUBLIC %s', target, rule);
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT tenant_id_form CHECK (app.is_tenant_id(tenant_id))', target);
    EXECUTE format(
        'CREATE TRIGGER tenant_named BEFORE INSERT OR DELETE OR UPDATE ON %s'
        ' FOR EACH STATEMENT EXECUTE FUNCTION app.require_tenants()', target
    );
END
$$;

-- The order in which the workers take them: each of their transactions that appends to a chain begins with this table.
LOCK TABLE chain_heads IN SHARE ROW EXCLUSIVE MODE;
DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN
        SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relforcerowsecurity ORDER BY relname
    LOOP
        EXECUTE format(
            'CREATE TRIGGER tenant_named BEFORE INSERT OR DELETE OR UPDATE ON %s'
            ' FOR EACH STATEMENT EXECUTE FUNCTION app.require_tenants()', target
        );
    END LOOP;
END
$$;
