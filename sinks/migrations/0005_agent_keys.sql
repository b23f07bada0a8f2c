-- Exempt from row-level security: an agent's public key is looked up by its id, before anything the request says is
-- believed. The private halves are with the agents and nowhere else.
CREATE TABLE agent_keys (
    key_id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants,
    agent_id text NOT NULL,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    not_before timestamptz(3) NOT NULL,
    not_after timestamptz(3),
    revoked_at timestamptz(3),
    created_at timestamptz(3) NOT NULL DEFAULT now()
);
CREATE INDEX agent_keys_tenant ON agent_keys (tenant_id);
GRANT SELECT ON agent_keys TO fg_edge, fg_admin;
GRANT INSERT (key_id, tenant_id, agent_id, public_key, not_before, not_after), UPDATE (not_after, revoked_at)
    ON agent_keys TO fg_admin;
