-- What tells one death of an event from another, and from a decision of it.

-- Where the latest letter stands in FG_DLQ, whatever stream its message lay in; and where the message that was accepted
-- as the event was stored first, which is what the ledger is asked to decide.
ALTER TABLE ingest_dlq
    ADD COLUMN letter_seq bigint NULL,
    ADD COLUMN accepted_stream text NULL,
    ADD COLUMN accepted_seq bigint NULL;
GRANT UPDATE (letter_seq, accepted_stream, accepted_seq) ON ingest_dlq TO fg_worker;
