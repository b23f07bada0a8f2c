-- Every row returned is a finding (rule, object, finding): a way around row-level security, or durability that is not
-- as promised. The rules are named in `sinks/attest.py`; docs/isolation.md says what each of them is for.
-- $1 tables exempt from row-level security, $2 the policies' one text, $3 functions that may run as their owner,
-- $4 unique indexes that may start with another column than tenant_id, $5 the tables that only grow, $6 the definition
-- of the trigger that keeps each so, $7 the functions that isolation stands on, $8 the SHA-256 of their definitions,
-- $9 the definition of the trigger on every table with tenants, with %s for the table.
WITH RECURSIVE reachable AS (
    SELECT oid, rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication AS mighty
    FROM pg_roles WHERE rolname IN (current_user, session_user)
    UNION
    SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
    FROM reachable AS member
    JOIN pg_auth_members AS m ON m.member = member.oid
    JOIN pg_roles AS r ON r.oid = m.roleid
), schemas AS (
    SELECT oid, nspname, nspowner FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), relations AS (
    SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name
    FROM pg_class AS c JOIN schemas AS s ON s.oid = c.relnamespace
), functions AS (
    SELECT p.*, format('%I.%I(%s)', s.nspname, p.proname, oidvectortypes(p.proargtypes)) AS name
    FROM pg_proc AS p JOIN schemas AS s ON s.oid = p.pronamespace
), tenant_columns AS (
    SELECT attrelid, attnum, attnotnull FROM pg_attribute WHERE attname = 'tenant_id' AND NOT attisdropped
), tenant_tables AS (
    SELECT r.oid, r.name, r.relrowsecurity, r.relforcerowsecurity, a.attnum, a.attnotnull,
        EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = r.oid) AS is_part
    FROM relations AS r JOIN tenant_columns AS a ON a.attrelid = r.oid
    WHERE r.relkind IN ('r', 'p') AND r.name <> ALL ($1::text[])
), policies AS (
    SELECT p.*, pg_get_expr(p.polqual, p.polrelid) IS NOT DISTINCT FROM $2
        AND pg_get_expr(p.polwithcheck, p.polrelid) IS NOT DISTINCT FROM $2 AS canonical
    FROM pg_policy AS p
), role_settings AS (
    SELECT split_part(entry, '=', 1) AS name, substr(entry, strpos(entry, '=') + 1) AS value
    FROM pg_db_role_setting, unnest(setconfig) AS entry
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
)
SELECT 'R1' AS rule, format('role %I', rolname) AS object, 'can bypass row-level security or manage roles' AS finding
FROM reachable WHERE mighty
UNION ALL
SELECT 'R2', format('role %I', session_user), format('runs as role %I', current_user) WHERE session_user <> current_user
UNION ALL
SELECT 'R2', format('role %I', session_user), format('is to run as %s in new sessions', value)
FROM role_settings WHERE name = 'role'
UNION ALL
SELECT 'R3', name, format('is owned by role %I', rolname)
FROM relations JOIN reachable ON relations.relowner = reachable.oid
UNION ALL
SELECT 'R3', format('schema %I', nspname), format('is owned by role %I', rolname)
FROM schemas JOIN reachable ON schemas.nspowner = reachable.oid
UNION ALL
SELECT 'R3', format('function %s', name), format('is owned by role %I', rolname)
FROM functions JOIN reachable ON functions.proowner = reachable.oid
UNION ALL
SELECT 'R4', format('role %I', rolname), 'is a predefined role' FROM reachable WHERE rolname ~ '^pg_'
UNION ALL
SELECT 'T1', name, 'row-level security is not enabled' FROM tenant_tables WHERE NOT relrowsecurity AND NOT is_part
UNION ALL
SELECT 'T2', name, 'row-level security is not forced' FROM tenant_tables WHERE NOT relforcerowsecurity AND NOT is_part
UNION ALL
SELECT 'T3', name, 'tenant_id may be null' FROM tenant_tables WHERE NOT attnotnull
UNION ALL
SELECT DISTINCT 'T3', r.name, 'has no tenant_id and is not exempt' FROM relations AS r JOIN reachable
    ON NOT mighty AND (
        has_any_column_privilege(reachable.oid, r.oid, 'SELECT, INSERT, UPDATE')
        OR has_table_privilege(reachable.oid, r.oid, 'DELETE')
    )
WHERE r.relkind IN ('r', 'p') AND r.name <> ALL ($1::text[])
    AND NOT EXISTS (SELECT FROM tenant_columns AS a WHERE a.attrelid = r.oid)
UNION ALL
SELECT 'T4', name, 'no restrictive policy holds for everyone' FROM tenant_tables AS t WHERE NOT EXISTS (
    SELECT FROM policies AS p
    WHERE p.polrelid = t.oid AND NOT p.polpermissive AND p.polcmd = '*' AND p.polroles = '{0}' AND p.canonical
)
UNION ALL
SELECT 'T4', name, 'no permissive policy holds for this login' FROM tenant_tables AS t WHERE NOT EXISTS (
    SELECT FROM policies AS p
    WHERE p.polrelid = t.oid AND p.polpermissive AND p.polcmd = '*' AND p.canonical
        AND p.polroles && (SELECT array_agg(oid) || 0::oid FROM reachable)
)
UNION ALL
SELECT 'T5', t.name, format('policy %I is not the canonical one', p.polname)
FROM tenant_tables AS t JOIN policies AS p ON p.polrelid = t.oid WHERE NOT p.canonical
UNION ALL
-- The definition has body, settings, volatility and whose rights it runs with. Asked only of what has one: the server
-- refuses to define an aggregate.
SELECT 'T5', format('function %s', required.name), 'is defined otherwise than this program relies on'
FROM unnest($7::text[], $8::text[]) AS required (name, sha256) WHERE NOT EXISTS (
    SELECT FROM functions AS f
    WHERE CASE WHEN f.name = required.name AND f.prokind = 'f'
        THEN encode(sha256(convert_to(pg_get_functiondef(f.oid), 'UTF8')), 'hex') = required.sha256
    END
)
UNION ALL
-- MAINTAIN is a privilege from version 17 on; before, only the owner may maintain.
SELECT 'T6', name, format('role %I may truncate, refer to, maintain it or put triggers on it', rolname)
FROM relations JOIN reachable
    ON has_table_privilege(
        reachable.oid, relations.oid, 'TRUNCATE, REFERENCES, TRIGGER'
            || CASE WHEN current_setting('server_version_num')::integer >= 170000 THEN ', MAINTAIN' ELSE '' END
    )
    OR has_any_column_privilege(reachable.oid, relations.oid, 'REFERENCES')
WHERE relkind IN ('r', 'p') AND NOT mighty
UNION ALL
SELECT 'T7', t.name, format('unique index %I does not start with tenant_id', i.relname)
FROM tenant_tables AS t
JOIN pg_index AS x ON x.indrelid = t.oid AND x.indisunique
JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE x.indkey[0] <> t.attnum AND i.relname <> ALL ($4::text[])
UNION ALL
SELECT 'T8', r.name, format('foreign key %I does not carry tenant_id', f.conname)
FROM pg_constraint AS f JOIN relations AS r ON r.oid = f.conrelid
WHERE f.contype = 'f' AND (f.conrelid IN (SELECT oid FROM tenant_tables) OR f.confrelid IN (SELECT oid FROM tenant_tables))
    AND NOT EXISTS (
        SELECT FROM unnest(f.conkey, f.confkey) AS pair (here, there)
        JOIN tenant_columns AS a ON a.attrelid = f.conrelid AND a.attnum = pair.here
        JOIN tenant_columns AS b ON b.attrelid = f.confrelid AND b.attnum = pair.there
    )
UNION ALL
SELECT 'T9', t.name, format('exclusion constraint %I compares rows of all tenants', x.conname)
FROM pg_constraint AS x JOIN tenant_tables AS t ON t.oid = x.conrelid WHERE x.contype = 'x'
UNION ALL
SELECT 'P1', name, 'is a partition whose row-level security is not enabled and forced'
FROM tenant_tables WHERE is_part AND NOT (relrowsecurity AND relforcerowsecurity)
UNION ALL
SELECT 'V1', name, 'is a view that does not run as its caller' FROM relations
WHERE relkind = 'v' AND NOT coalesce(reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false)
UNION ALL
SELECT 'V2', name, 'is a kind of relation that row-level security cannot cover' FROM relations
WHERE relkind IN ('m', 'f')
UNION ALL
SELECT DISTINCT 'F1', format('function %s', f.name), 'runs as its owner'
FROM functions AS f JOIN reachable AS r ON has_function_privilege(r.oid, f.oid, 'EXECUTE')
WHERE f.prosecdef AND NOT r.mighty
    AND NOT (f.name = ANY ($3::text[]) AND coalesce('search_path=""' = ANY (f.proconfig), false))
UNION ALL
SELECT 'F2', format('function %s', name), 'claims to be leakproof' FROM functions WHERE proleakproof
UNION ALL
SELECT 'S1', format('schema %I', nspname), format('role %I may create in it', rolname)
FROM schemas JOIN reachable ON has_schema_privilege(reachable.oid, schemas.oid, 'CREATE') AND NOT mighty
UNION ALL
SELECT 'S1', format('database %I', current_database()), format('role %I may create schemas in it', rolname)
FROM reachable WHERE has_database_privilege(oid, current_database(), 'CREATE') AND NOT mighty
UNION ALL
SELECT 'S2', format('database %I', current_database()), format('role %I may create temporary tables', rolname)
FROM reachable WHERE has_database_privilege(oid, current_database(), 'TEMPORARY') AND NOT mighty
UNION ALL
SELECT DISTINCT 'S3', name, 'something is granted to PUBLIC'
FROM relations, aclexplode(relacl) AS acl WHERE acl.grantee = 0
UNION ALL
SELECT DISTINCT 'S3', r.name, 'a column is granted to PUBLIC'
FROM relations AS r JOIN pg_attribute AS a ON a.attrelid = r.oid, aclexplode(a.attacl) AS acl WHERE acl.grantee = 0
UNION ALL
SELECT 'S4', name, format('is %s', setting) FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'row_security') AND setting <> 'on'
    OR name = 'synchronous_commit' AND setting NOT IN ('on', 'remote_apply')
    OR name = 'session_replication_role' AND setting <> 'origin'
UNION ALL
-- A session keeps the settings it began with: what the next one will begin with is in the catalog.
SELECT 'S4', name, format('is to be %s for new sessions', value) FROM role_settings
WHERE name = 'row_security' AND value <> 'on'
    OR name = 'synchronous_commit' AND value NOT IN ('on', 'remote_apply')
    OR name = 'session_replication_role' AND value <> 'origin'
    OR name = 'app.tenants'
UNION ALL
SELECT 'S5', r.name, format('trigger %I is disabled', t.tgname)
FROM pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid WHERE t.tgenabled NOT IN ('O', 'A')
UNION ALL
SELECT 'S5', guarded.name, 'the trigger that keeps it from losing rows is missing or another'
FROM unnest($5::text[], $6::text[]) AS guarded (name, definition) WHERE NOT EXISTS (
    SELECT FROM pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid
    WHERE r.name = guarded.name AND pg_get_triggerdef(t.oid) = guarded.definition
)
UNION ALL
SELECT 'S5', t.name, 'the trigger that refuses writes without a tenant is missing or another'
FROM tenant_tables AS t WHERE NOT EXISTS (
    SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND pg_get_triggerdef(g.oid) = format($9, t.name)
)
