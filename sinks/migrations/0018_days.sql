-- The name of a partition has room for neither an era nor a fifth digit of the year, so a day is taken only from where
-- names are plain: two calls with the same name mean the same day.

-- As before, for days from 2020 to a week ahead of this server's clock: the edges', which give the moments, are never
-- so far ahead of it. A day that is refused is as a value that can never be stored: the event that brings it
-- ends as a dead letter.
CREATE OR REPLACE FUNCTION app.ensure_ingest_partition(day date) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    partition text := format('public.ingest_events_%s', to_char(day, 'YYYYMMDD'));
BEGIN
    IF (day BETWEEN DATE '2020-01-01' AND (now() AT TIME ZONE 'UTC')::date + 7) IS NOT TRUE THEN
        RAISE EXCEPTION 'INGEST_DAY_REFUSED' USING ERRCODE = '22008';
    END IF;
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock('public.ingest_events'::regclass::integer, 0);
    -- Asked of the catalog itself: to_regclass may still remember from before the wait that there was none.
    IF EXISTS (
        SELECT FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND 'public.' || c.relname = partition
    ) THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE TABLE %s (LIKE public.ingest_events INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE)', partition
    );
    PERFORM app.protect(partition::regclass);
    EXECUTE format(
        'ALTER TABLE public.ingest_events ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
        partition, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
    );
END
$$;

-- As before, for days from 2020 on, and only with days for the plan of every tenant there is. Those days are the
-- operator's configuration, in the caller's words: what this function knows by itself is the plans that tenants have
-- at this moment, and that no call takes a day of the last week.
CREATE OR REPLACE FUNCTION app.drop_ingest_partition(day date, days_by_tier jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    partition text := format('public.ingest_events_%s', to_char(day, 'YYYYMMDD'));
    keep_days integer;
BEGIN
    SELECT max(days::integer) INTO keep_days FROM jsonb_each_text(days_by_tier) AS every (tier, days)
    WHERE tier IN (SELECT t.plan_tier FROM public.tenants AS t) OR NOT EXISTS (SELECT FROM public.tenants);
    IF keep_days IS NULL OR EXISTS (SELECT FROM public.tenants AS t WHERE days_by_tier ->> t.plan_tier IS NULL) THEN
        RAISE EXCEPTION 'RETENTION_OF_A_PLAN_UNKNOWN' USING ERRCODE = '42501';
    END IF;
    IF (day >= DATE '2020-01-01' AND day < (now() AT TIME ZONE 'UTC')::date - greatest(keep_days, 7)) IS NOT TRUE THEN
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
