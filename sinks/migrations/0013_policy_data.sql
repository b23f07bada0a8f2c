-- What tenants add to the rules: the worker gives it to them as `input.tenant`, and names its hash in the record.
CREATE TABLE tenant_policy_data (
    tenant_id text PRIMARY KEY REFERENCES tenants,
    data jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object'),
    updated_at timestamptz(3) NOT NULL DEFAULT now(),
    updated_by text NOT NULL
);
SELECT app.protect('tenant_policy_data');
GRANT SELECT ON tenant_policy_data TO fg_worker, fg_admin;
GRANT INSERT, UPDATE (data, updated_at, updated_by), DELETE ON tenant_policy_data TO fg_admin;
