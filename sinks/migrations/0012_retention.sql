-- Raw events, keys and dead letters leave by the tenants' plans, through a role that can do nothing else; and an
-- operator takes dead letters.

-- As before, with the retention role among those the policy lets in: what it may do is for grants to say.
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
END
$$;

DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN
        SELECT unnest(ARRAY['ingest_events', 'event_keys', 'ingest_dlq']::regclass[])
        UNION ALL SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'ingest_events'::regclass
    LOOP
        EXECUTE format('ALTER POLICY tenant_rows ON %s TO fg_edge, fg_worker, fg_admin, fg_retention', target);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION app.tenants() TO fg_retention;
GRANT SELECT, DELETE ON ingest_events, event_keys, ingest_dlq TO fg_retention;

-- Drops the partition of a day that no plan of any tenant still needs. Runs as the owner, for the role needs no right
-- over tables; it returns nothing and reads no tenant's row. It does not take the caller's word: what is needed is
-- worked out from the tenants there are at this moment, and no call takes a day of the last week.
CREATE FUNCTION app.drop_ingest_partition(day date, days_by_tier jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    partition text := format('public.ingest_events_%s', to_char(day, 'YYYYMMDD'));
    keep_days integer;
BEGIN
    SELECT max(days::integer) INTO keep_days FROM jsonb_each_text(days_by_tier) AS every (tier, days)
    WHERE tier IN (SELECT t.plan_tier FROM public.tenants AS t) OR NOT EXISTS (SELECT FROM public.tenants);
    IF keep_days IS NULL OR EXISTS (SELECT FROM public.tenants AS t WHERE NOT days_by_tier ? t.plan_tier) THEN
        RAISE EXCEPTION 'RETENTION_OF_A_PLAN_UNKNOWN' USING ERRCODE = '42501';
    END IF;
    IF day >= (now() AT TIME ZONE 'UTC')::date - greatest(keep_days, 7) THEN
        RAISE EXCEPTION 'RETENTION_NOT_OVER' USING ERRCODE = '42501';
    END IF;
    IF EXISTS (
        SELECT FROM pg_catalog.pg_inherits AS i
        WHERE i.inhparent = 'public.ingest_events'::regclass AND i.inhrelid = to_regclass(partition)
    ) THEN
        EXECUTE format('DROP TABLE %s', partition);
    END IF;
END
$$;
GRANT EXECUTE ON FUNCTION app.drop_ingest_partition(date, jsonb) TO fg_retention;

-- How many events of a day each of these tenants has, those that have any; each is told so among its operator
-- actions. Names one tenant after the other, as app.stored_keys does.
CREATE FUNCTION app.note_dropped_day(asking text[], day date, operator text)
RETURNS TABLE (tenant_id text, events bigint)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = '' SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    one text;
    found bigint;
BEGIN
    FOREACH one IN ARRAY asking LOOP
        PERFORM app.set_tenants(ARRAY[one]);
        SELECT count(*) INTO found FROM public.ingest_events AS e
        WHERE e.tenant_id = one AND e.ingest_ts >= day::timestamp AT TIME ZONE 'UTC'
            AND e.ingest_ts < (day + 1)::timestamp AT TIME ZONE 'UTC';
        IF found > 0 THEN
            INSERT INTO public.operator_actions (tenant_id, action_id, operator, action, details) VALUES (
                one, gen_random_uuid()::text, operator, 'retention.drop_day',
                jsonb_build_object('day', day, 'events', found)
            );
            RETURN QUERY SELECT one, found;
        END IF;
        PERFORM set_config('app.tenants', '', true);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION app.note_dropped_day(text[], date, text) TO fg_admin;

-- A letter waits until an operator has taken it. One more message of the event with the same reason makes it wait
-- again: that one nobody has seen.
ALTER TABLE ingest_dlq ADD COLUMN taken_at timestamptz(3), ADD COLUMN taken_by text;
GRANT UPDATE (taken_at, taken_by) ON ingest_dlq TO fg_admin;
CREATE INDEX ingest_dlq_waiting ON ingest_dlq (tenant_id, first_seen_at) WHERE taken_at IS NULL;

CREATE FUNCTION app.wait_again() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    NEW.taken_at := NULL;
    NEW.taken_by := NULL;
    RETURN NEW;
END
$$;
CREATE TRIGGER wait_again BEFORE UPDATE ON ingest_dlq
    FOR EACH ROW WHEN (NEW.retry_count > OLD.retry_count) EXECUTE FUNCTION app.wait_again();

-- The waiting letters of these tenants, the oldest first of each, naming one tenant after the other.
CREATE FUNCTION app.waiting_letters(asking text[], older_than timestamptz, most integer) RETURNS TABLE (
    tenant_id text, event_id text, reason_code text, stage text, retry_count integer, first_seen_at text,
    last_seen_at text
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = '' SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY asking LOOP
        PERFORM app.set_tenants(ARRAY[one]);
        RETURN QUERY
            SELECT l.tenant_id, l.event_id, l.reason_code, l.stage, l.retry_count, app.rfc3339(l.first_seen_at),
                app.rfc3339(l.last_seen_at)
            FROM public.ingest_dlq AS l
            WHERE l.tenant_id = one AND l.taken_at IS NULL AND l.first_seen_at <= older_than
            ORDER BY l.first_seen_at LIMIT most;
        PERFORM set_config('app.tenants', '', true);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION app.waiting_letters(text[], timestamptz, integer) TO fg_admin;
