-- What checkpoints are made of: each tenant's tree as far as rounds cover it, and the rounds themselves.

-- The newest leaf of each tenant and the frontier of its tree (`schemas.merkle.Frontier`).
CREATE TABLE chain_frontiers (
    tenant_id text PRIMARY KEY,
    size bigint NOT NULL CHECK (size > 0),
    hashes bytea NOT NULL CHECK (octet_length(hashes) % 32 = 0),
    root char(64) NOT NULL,
    name char(64) NOT NULL,
    partition smallint NOT NULL,
    round bigint NOT NULL,
    updated_at timestamptz(3) NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
SELECT app.protect('chain_frontiers');
GRANT SELECT ON chain_frontiers TO fg_edge, fg_admin;
GRANT SELECT, INSERT, UPDATE (size, hashes, root, round, updated_at) ON chain_frontiers TO fg_worker;
CREATE TRIGGER never_less BEFORE DELETE OR TRUNCATE ON chain_frontiers
    FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

-- Complete subtrees of 2^8, 2^16 and 2^24 leaves, so that a proof reads hundreds of entries and never the chain.
CREATE TABLE chain_nodes (
    tenant_id text NOT NULL,
    level smallint NOT NULL CHECK (level IN (8, 16, 24)),
    position bigint NOT NULL CHECK (position >= 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (tenant_id, level, position)
);
SELECT app.protect('chain_nodes');
GRANT SELECT ON chain_nodes TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON chain_nodes TO fg_worker;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON chain_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

-- Older leaves, one per 10,000 entries: which round covered the tree of that size.
CREATE TABLE chain_leaves (
    tenant_id text NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    round bigint NOT NULL,
    partition smallint NOT NULL,
    root char(64) NOT NULL,
    PRIMARY KEY (tenant_id, size)
);
SELECT app.protect('chain_leaves');
GRANT SELECT ON chain_leaves TO fg_edge, fg_admin;
GRANT SELECT, INSERT ON chain_leaves TO fg_worker;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON chain_leaves
    FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

-- `leaves` is the canonical list of the round's leaves, sorted by name: keyed hashes, no tenant can be read out of it.
-- `growth` is what a witness needs to see each tree grow; emptied once it has countersigned.
ALTER TABLE chain_checkpoints
    ADD COLUMN leaves text NOT NULL DEFAULT '[]',
    ADD COLUMN growth text NOT NULL DEFAULT '',
    ADD COLUMN cosignature text NOT NULL DEFAULT '',
    ADD COLUMN stored boolean NOT NULL DEFAULT false;
CREATE INDEX chain_checkpoints_unstored ON chain_checkpoints (partition, checkpoint_seq) WHERE NOT stored;
CREATE INDEX chain_checkpoints_unwitnessed ON chain_checkpoints (partition, checkpoint_seq) WHERE growth <> '';
GRANT UPDATE (cosignature, growth, stored) ON chain_checkpoints TO fg_worker;
CREATE TRIGGER append_only
    BEFORE DELETE OR TRUNCATE OR UPDATE OF partition, checkpoint_seq, tree_size, root_sha256, note, leaves, created_at
    ON chain_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

-- Asks for a round of a partition at once; whoever makes the round takes the request away.
CREATE TABLE checkpoint_requests (
    partition smallint PRIMARY KEY,
    requested_at timestamptz(3) NOT NULL DEFAULT now()
);
GRANT INSERT (partition), SELECT ON checkpoint_requests TO fg_edge, fg_admin;
GRANT SELECT, DELETE ON checkpoint_requests TO fg_worker;
