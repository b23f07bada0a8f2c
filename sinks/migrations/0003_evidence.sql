-- The tamper-evident chain of each tenant, and the way of its entries to sealed artifacts.

-- Updated once per transaction and tenant: room on the page keeps the update out of the indexes.
CREATE TABLE chain_heads (
    tenant_id text PRIMARY KEY,
    seq bigint NOT NULL,
    chain_hash char(64) NOT NULL,
    updated_at timestamptz(3) NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
SELECT app.protect('chain_heads');
GRANT SELECT ON chain_heads TO fg_edge, fg_admin;
GRANT SELECT, INSERT, UPDATE (seq, chain_hash, updated_at) ON chain_heads TO fg_worker;

-- `entry` is the canonical JSON of `schemas.evidence.ChainEntry`: sorted keys, and no text inside of a string can look
-- like a key. The table recomputes the hash and holds the entry to its place; the unique keys make a fork impossible to
-- store.
CREATE TABLE chain_entries (
    tenant_id text NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    kind text NOT NULL,
    event_id text NOT NULL,
    entry text NOT NULL,
    prev_hash char(64) NOT NULL,
    chain_hash char(64) NOT NULL,
    PRIMARY KEY (tenant_id, seq),
    UNIQUE (tenant_id, prev_hash),
    UNIQUE (tenant_id, event_id, kind),
    CONSTRAINT chain_hash_is_of_entry
        CHECK (chain_hash = encode(sha256('\x00'::bytea || convert_to(entry, 'UTF8')), 'hex')),
    CONSTRAINT entry_binds_its_place CHECK (
        entry LIKE '%,"prev_hash":"' || prev_hash || '",%,"seq":' || seq
            || ',"tenant_id":"' || replace(tenant_id, '_', '\_') || '",%'
    )
);
SELECT app.protect('chain_entries');
GRANT SELECT ON chain_entries TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON chain_entries TO fg_worker;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON chain_entries
    FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

-- Entries and records not yet published to the events stream. The relay deletes what it has sent, so the table is
-- vacuumed early.
CREATE TABLE evidence_outbox (
    tenant_id text NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    event_id text NOT NULL,
    chain_hash char(64) NOT NULL,
    entry text NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (tenant_id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
SELECT app.protect('evidence_outbox');
GRANT SELECT ON evidence_outbox TO fg_edge, fg_admin;
GRANT SELECT, INSERT, DELETE ON evidence_outbox TO fg_worker;

-- Which tenants have outbox rows waiting, up to which seq. Exempt from row-level security, because the relay has to
-- learn from it which tenants to name; it holds ids and nothing of theirs, and only the worker may read it. Under
-- FORCE not even a function of the owner could gather this from the outbox itself.
CREATE TABLE outbox_tenants (
    tenant_id text PRIMARY KEY,
    partition smallint NOT NULL,
    seq bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX outbox_tenants_partition ON outbox_tenants (partition);
GRANT SELECT, INSERT, UPDATE (seq), DELETE ON outbox_tenants TO fg_worker;

-- Where each artifact lies in the sealed segments.
CREATE TABLE decision_evidence_artifacts (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    artifact_class varchar(32) NOT NULL DEFAULT 'decision',
    artifact_id text NOT NULL,
    artifact_sha256 char(64) NOT NULL,
    artifact_bytes bigint NOT NULL,
    segment_id text NOT NULL,
    segment_offset bigint NOT NULL,
    trace_hash char(64) NULL,
    chain_seq bigint NOT NULL,
    stored_at timestamptz(3) NOT NULL,
    PRIMARY KEY (tenant_id, event_id, artifact_class)
);
SELECT app.protect('decision_evidence_artifacts');
GRANT SELECT ON decision_evidence_artifacts TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON decision_evidence_artifacts TO fg_worker;

CREATE TABLE evidence_bundles (
    tenant_id text NOT NULL,
    bundle_id text NOT NULL,
    bundle_json jsonb NOT NULL,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, bundle_id)
);
SELECT app.protect('evidence_bundles');
GRANT SELECT ON evidence_bundles TO fg_edge, fg_worker;
GRANT SELECT, INSERT ON evidence_bundles TO fg_admin;

-- Signed notes over a partition's chain heads. No tenant can be read out of one: its leaves are keyed hashes.
CREATE TABLE chain_checkpoints (
    partition smallint NOT NULL,
    checkpoint_seq bigint NOT NULL,
    tree_size bigint NOT NULL,
    root_sha256 char(64) NOT NULL,
    note text NOT NULL,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, checkpoint_seq)
);
GRANT SELECT ON chain_checkpoints TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON chain_checkpoints TO fg_worker;
