-- What became of events, for whoever waits for it.

-- Like app.stored_keys: one round trip for events of several tenants, one tenant named after the other, none left
-- named. An event has one row: its decision, or, with a reason, the dead letter it ended as. A letter of
-- event_id_conflict speaks of another message with the event's id, never of the event.
CREATE FUNCTION app.decided(asking text[], event_ids text[]) RETURNS TABLE (
    tenant_id text, event_id text, trace_id text, verdict text, policy_code text, policy_reasons text[], score integer,
    decided_at text, chain_seq bigint, chain_hash text, reason_code text
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
            SELECT d.tenant_id, d.event_id, d.trace_id::text, d.verdict, d.policy_code, d.policy_reasons, d.score,
                app.rfc3339(d.decided_at), d.decision_id, d.chain_hash::text, NULL::text
            FROM public.decisions AS d
            WHERE d.tenant_id = one AND d.event_id = ANY (wanted);
        RETURN QUERY
            SELECT DISTINCT ON (l.event_id) l.tenant_id, l.event_id, l.trace_id::text, NULL::text, NULL::text,
                NULL::text[], NULL::integer, NULL::text, NULL::bigint, NULL::text, l.reason_code
            FROM public.ingest_dlq AS l
            WHERE l.tenant_id = one AND l.event_id = ANY (wanted) AND l.reason_code <> 'event_id_conflict'
                AND NOT EXISTS (
                    SELECT FROM public.decisions AS d WHERE d.tenant_id = one AND d.event_id = l.event_id
                )
            ORDER BY l.event_id, l.id;
        PERFORM set_config('app.tenants', '', true);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION app.decided(text[], text[]) TO fg_edge;
