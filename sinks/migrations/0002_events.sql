-- Accepted events, and what was decided about them.

-- The identity of each event's first stored message: the truth about duplicates, never partitioned.
CREATE TABLE event_keys (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    trace_id varchar(36) NOT NULL,
    request_id varchar(64) NOT NULL,
    ingest_ts timestamptz(3) NOT NULL,
    stream text NOT NULL,
    seq bigint NOT NULL,
    body_sha256 char(64) NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);
SELECT app.protect('event_keys');
GRANT SELECT ON event_keys TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON event_keys TO fg_worker;

-- The envelope as the agent sent it, written with its key.
CREATE TABLE ingest_events (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    ingest_ts timestamptz(3) NOT NULL,
    agent_id text NOT NULL,
    source text NOT NULL,
    body bytea NOT NULL,
    body_bytes integer NOT NULL,
    PRIMARY KEY (tenant_id, event_id, ingest_ts)
) PARTITION BY RANGE (ingest_ts);
SELECT app.protect('ingest_events');
GRANT SELECT ON ingest_events TO fg_edge, fg_admin;
GRANT INSERT ON ingest_events TO fg_worker;

-- Makes the partition of one UTC day where it is missing. Runs as the owner so that the worker needs no right to
-- create tables; it returns nothing and reads no row, and what it makes is protected before it is attached.
-- Attaching a finished table, unlike CREATE .. PARTITION OF, does not wait for the inserts of other days.
CREATE FUNCTION app.ensure_ingest_partition(day date) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    partition text := format('public.ingest_events_%s', to_char(day, 'YYYYMMDD'));
BEGIN
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
GRANT EXECUTE ON FUNCTION app.ensure_ingest_partition(date) TO fg_worker;

-- The canonical text of a moment, the one the receipt was made of.
CREATE FUNCTION app.rfc3339(moment timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
GRANT EXECUTE ON FUNCTION app.rfc3339(timestamptz) TO fg_edge, fg_worker, fg_admin;

-- Looks up events of several tenants in one round trip, naming one tenant after the other: each look-up sees that
-- tenant's rows alone, so the edge needs no right to name many, and none stays named. The table has one index and
-- the plan is kept, so a look-up costs no planning.
CREATE FUNCTION app.stored_keys(asking text[], event_ids text[]) RETURNS TABLE (
    tenant_id text, event_id text, trace_id text, request_id text, ingest_ts text, stream text, seq bigint,
    body_sha256 text
)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = '' SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    one text;
    wanted text[];
BEGIN
    FOR one, wanted IN
        SELECT a.tenant_id, array_agg(a.event_id) FROM unnest(asking, event_ids) AS a (tenant_id, event_id) GROUP BY 1
    LOOP
        PERFORM app.set_tenants(ARRAY[one]);
        RETURN QUERY
            SELECT k.tenant_id, k.event_id, k.trace_id::text, k.request_id::text, app.rfc3339(k.ingest_ts), k.stream,
                k.seq, k.body_sha256::text
            FROM public.event_keys AS k
            WHERE k.tenant_id = one AND k.event_id = ANY (wanted);
        PERFORM set_config('app.tenants', '', true);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION app.stored_keys(text[], text[]) TO fg_edge;

-- One decision per event; `decision_id` is the seq of its entry in the tenant's chain.
CREATE TABLE decisions (
    tenant_id text NOT NULL,
    decision_id bigint NOT NULL,
    event_id text NOT NULL,
    trace_id varchar(36) NOT NULL,
    request_id varchar(64) NOT NULL,
    agent_id text NOT NULL,
    source text NOT NULL,
    verdict text NOT NULL,
    policy_code text NOT NULL,
    policy_reasons text[] NOT NULL,
    policy_hash text NOT NULL,
    config_hash text NOT NULL,
    score integer NOT NULL,
    features jsonb NOT NULL,
    contributions jsonb NOT NULL,
    ingest_ts timestamptz(3) NOT NULL,
    decided_at timestamptz(3) NOT NULL,
    ingest_latency_ms integer NULL, -- unknown where the two clocks disagree on the order, or it does not fit
    prev_hash char(64) NOT NULL,
    chain_hash char(64) NOT NULL,
    PRIMARY KEY (tenant_id, decision_id),
    UNIQUE (tenant_id, event_id)
);
CREATE INDEX decisions_trace ON decisions (tenant_id, trace_id);
SELECT app.protect('decisions');
GRANT SELECT ON decisions TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON decisions TO fg_worker;

-- Failures an event has had of its own, per stage.
CREATE TABLE attempts (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    stage text NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    first_attempt_at timestamptz(3) NOT NULL,
    last_attempt_at timestamptz(3) NOT NULL,
    PRIMARY KEY (tenant_id, event_id, stage)
);
SELECT app.protect('attempts');
GRANT SELECT ON attempts TO fg_edge, fg_admin;
GRANT SELECT, INSERT, UPDATE (attempt, last_attempt_at), DELETE ON attempts TO fg_worker;
