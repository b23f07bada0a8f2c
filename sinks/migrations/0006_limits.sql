-- Limits of single tenants: a monthly quota beside the rate, and how the edge reads them.

-- NULL leaves the quota to the tenant's tier.
ALTER TABLE tenant_runtime_limits ADD COLUMN events_per_month_max bigint CHECK (events_per_month_max > 0);

-- The row's plan_tier is the tenant's, now and after every change of it.
ALTER TABLE tenants ADD CONSTRAINT tenants_plan UNIQUE (tenant_id, plan_tier);
ALTER TABLE tenant_runtime_limits ADD CONSTRAINT plan_of_the_tenant
    FOREIGN KEY (tenant_id, plan_tier) REFERENCES tenants (tenant_id, plan_tier) ON UPDATE CASCADE;

GRANT UPDATE (events_per_month_max), DELETE ON tenant_runtime_limits TO fg_admin;

-- The limits and this month's use of several tenants in one round trip, naming one tenant after the other as
-- app.stored_keys does. A row for each tenant asked for; the limits are NULL where no operator set any.
CREATE FUNCTION app.runtime_limits(asking text[]) RETURNS TABLE (
    tenant_id text, ingest_rps integer, burst integer, events_per_month_max bigint, events_this_month bigint
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = '' SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    one text;
    month_begin date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    FOREACH one IN ARRAY asking LOOP
        PERFORM app.set_tenants(ARRAY[one]);
        RETURN QUERY
            SELECT one, l.ingest_rps, l.burst, l.events_per_month_max, coalesce(used.events, 0)
            FROM (
                SELECT sum(u.value)::bigint AS events FROM public.usage_meters AS u
                WHERE u.tenant_id = one AND u.meter = 'ingest_events_total' AND u.day >= month_begin
            ) AS used
            LEFT JOIN public.tenant_runtime_limits AS l ON l.tenant_id = one;
        PERFORM set_config('app.tenants', '', true);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION app.runtime_limits(text[]) TO fg_edge, fg_admin;
