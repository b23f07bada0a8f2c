-- What tells one death of an event from another, and from a decision of it.

-- Where the latest letter stands in FG_DLQ, whatever stream its message lay in; and where the message that was accepted
-- as the event was stored first, which is what the ledger is asked to decide.
ALTER TABLE ingest_dlq
    ADD COLUMN letter_seq bigint NULL,
    ADD COLUMN accepted_stream text NULL,
    ADD COLUMN accepted_seq bigint NULL;
GRANT UPDATE (letter_seq, accepted_stream, accepted_seq) ON ingest_dlq TO fg_worker;

-- Rows from before hold the message that says it: it lies in an ingest stream, or is the task that names its place there.
-- FORCE binds the owner too, who names no tenant; until the commit nobody else reaches the table.
ALTER TABLE ingest_dlq NO FORCE ROW LEVEL SECURITY;
UPDATE ingest_dlq SET accepted_stream = stream, accepted_seq = seq
WHERE stream ~ '^FG_INGEST_[0-9]+$' AND payload_json ->> 'event_id' = event_id;
UPDATE ingest_dlq SET accepted_stream = payload_json ->> 'stream', accepted_seq = (payload_json ->> 'seq')::bigint
WHERE stream = 'FG_DECIDE' AND payload_json #>> '{accepted,event_id}' = event_id
    AND payload_json ->> 'stream' ~ '^FG_INGEST_[0-9]+$' AND payload_json ->> 'seq' ~ '^[1-9][0-9]{0,17}$';
ALTER TABLE ingest_dlq FORCE ROW LEVEL SECURITY;
