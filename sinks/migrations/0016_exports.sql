-- An order is of a bundle there is, its attempts are counted, and all of them build the same entries.

-- What was ordered before is not held to the reference: the worker forgets an order without a bundle.
DELETE FROM export_requests WHERE bundle_id !~ '^[0-9a-f][0-9a-f-]{0,63}$';
ALTER TABLE export_requests
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT bundle_id_form CHECK (bundle_id ~ '^[0-9a-f][0-9a-f-]{0,63}$'),
    ADD CONSTRAINT bundle_is_there FOREIGN KEY (tenant_id, bundle_id) REFERENCES evidence_bundles NOT VALID;
GRANT UPDATE (attempts) ON export_requests TO fg_worker;

-- The entries that an ordered bundle holds, chosen by the first attempt.
ALTER TABLE evidence_bundles ADD COLUMN first_seq bigint, ADD COLUMN last_seq bigint;
GRANT UPDATE (first_seq, last_seq) ON evidence_bundles TO fg_worker;

-- For what a tenant ordered within a day.
CREATE INDEX evidence_bundles_created ON evidence_bundles (tenant_id, created_at);
