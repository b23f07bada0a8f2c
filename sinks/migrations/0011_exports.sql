-- Bundles of evidence: asked for over HTTP and built by a worker, or written by `frostgate export`.

-- `place` is the prefix of a ready bundle's objects in the WORM store, `pieces` their hashes in order.
ALTER TABLE evidence_bundles
    ADD COLUMN status text NOT NULL DEFAULT 'ready' CHECK (status IN ('pending', 'ready', 'failed')),
    ADD COLUMN requested_by text NOT NULL DEFAULT 'operator',
    ADD COLUMN digest char(64),
    ADD COLUMN bytes bigint,
    ADD COLUMN place text,
    ADD COLUMN pieces text[] NOT NULL DEFAULT '{}',
    ADD COLUMN updated_at timestamptz(3) NOT NULL DEFAULT now();
GRANT INSERT (tenant_id, bundle_id, bundle_json, status, requested_by) ON evidence_bundles TO fg_edge;
GRANT UPDATE (bundle_json, status, digest, bytes, place, pieces, updated_at) ON evidence_bundles TO fg_worker;
CREATE INDEX evidence_bundles_pending ON evidence_bundles (tenant_id) WHERE status = 'pending';

-- Which bundles wait for a worker. Exempt from row-level security, because the worker has to learn from it which tenants
-- to name; it holds ids alone, which an edge may add to and only the worker may read. A worker that took one has it
-- until `taken_until`; then another may.
CREATE TABLE export_requests (
    tenant_id text NOT NULL CHECK (app.is_tenant_id(tenant_id)),
    bundle_id text NOT NULL,
    requested_at timestamptz(3) NOT NULL DEFAULT now(),
    taken_until timestamptz(3) NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, bundle_id)
);
GRANT INSERT (tenant_id, bundle_id) ON export_requests TO fg_edge;
GRANT SELECT, UPDATE (taken_until), DELETE ON export_requests TO fg_worker;

-- Whoever waits for entries to be covered may ask for a round.
GRANT INSERT (partition) ON checkpoint_requests TO fg_worker;
