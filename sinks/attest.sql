-- Every row returned is a finding: a way around row-level security, or durability that is not as promised.
-- $1 tables exempt from row-level security, $2 the policies' one text, $3 functions that may run as their owner,
-- $4 unique indexes that may start with another column than tenant_id.
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
), tenant_tables AS (
    SELECT r.*, a.attnotnull FROM relations AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE r.relkind IN ('r', 'p') AND r.name <> ALL ($1::text[])
), policies AS (
    SELECT p.*, pg_get_expr(p.polqual, p.polrelid) IS NOT DISTINCT FROM $2
        AND pg_get_expr(p.polwithcheck, p.polrelid) IS NOT DISTINCT FROM $2 AS canonical
    FROM pg_policy AS p
)
SELECT format('role %I can bypass row-level security or manage roles', rolname) FROM reachable WHERE mighty
UNION ALL
SELECT format('role %I is a predefined role', rolname) FROM reachable WHERE rolname ~ '^pg_'
UNION ALL
SELECT 'the session runs as another role than it logged in with' WHERE session_user <> current_user
UNION ALL
SELECT format('%s is owned by role %I', name, rolname)
FROM relations JOIN reachable ON relations.relowner = reachable.oid
UNION ALL
SELECT format('schema %I is owned by role %I', nspname, rolname)
FROM schemas JOIN reachable ON schemas.nspowner = reachable.oid
UNION ALL
SELECT format('function %s is owned by role %I', p.oid::regprocedure, rolname)
FROM pg_proc AS p JOIN reachable ON p.proowner = reachable.oid
UNION ALL
SELECT format('%s: row-level security is not enabled and forced', name) FROM tenant_tables
WHERE NOT (relrowsecurity AND relforcerowsecurity)
UNION ALL
SELECT format('%s: tenant_id may be null', name) FROM tenant_tables WHERE NOT attnotnull
UNION ALL
SELECT format('%s: no restrictive policy holds for everyone', name) FROM tenant_tables AS t WHERE NOT EXISTS (
    SELECT FROM policies AS p
    WHERE p.polrelid = t.oid AND NOT p.polpermissive AND p.polcmd = '*' AND p.polroles = '{0}' AND p.canonical
)
UNION ALL
SELECT format('%s: policy %I is not the canonical one', t.name, p.polname)
FROM tenant_tables AS t JOIN policies AS p ON p.polrelid = t.oid WHERE NOT p.canonical
UNION ALL
SELECT format('%s: unique index %I does not start with tenant_id', t.name, i.relname)
FROM tenant_tables AS t
JOIN pg_index AS x ON x.indrelid = t.oid AND x.indisunique
JOIN pg_class AS i ON i.oid = x.indexrelid
JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = 'tenant_id'
WHERE x.indkey[0] <> a.attnum AND i.relname <> ALL ($4::text[])
UNION ALL
SELECT format('%s: role %I may truncate it, refer to it or put triggers on it', name, rolname)
FROM relations JOIN reachable ON has_table_privilege(reachable.oid, relations.oid, 'TRUNCATE, REFERENCES, TRIGGER')
WHERE relkind IN ('r', 'p') AND NOT mighty
UNION ALL
SELECT DISTINCT format('%s: something is granted to PUBLIC', name)
FROM relations, aclexplode(relacl) AS acl WHERE acl.grantee = 0
UNION ALL
SELECT format('view %s does not run as its caller', name) FROM relations
WHERE relkind = 'v' AND NOT coalesce(reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false)
UNION ALL
SELECT format('%s: row-level security cannot cover this kind of relation', name) FROM relations
WHERE relkind IN ('m', 'f')
UNION ALL
SELECT format('function %s runs as its owner', p.oid::regprocedure)
FROM pg_proc AS p JOIN schemas AS s ON s.oid = p.pronamespace JOIN reachable AS r
    ON has_function_privilege(r.oid, p.oid, 'EXECUTE')
WHERE p.prosecdef AND NOT r.mighty AND format('%I.%I', s.nspname, p.proname) <> ALL ($3::text[])
UNION ALL
SELECT format('role %I may create in schema %I', rolname, nspname)
FROM schemas JOIN reachable ON has_schema_privilege(reachable.oid, schemas.oid, 'CREATE') AND NOT mighty
UNION ALL
SELECT format('role %I may create schemas or temporary tables', rolname) FROM reachable
WHERE has_database_privilege(oid, current_database(), 'CREATE, TEMPORARY') AND NOT mighty
UNION ALL
SELECT format('%s: the append-only trigger is missing or disabled', r.name) FROM relations AS r
WHERE r.name IN ('public.chain_entries', 'public.operator_actions') AND NOT EXISTS (
    SELECT FROM pg_trigger AS t WHERE t.tgrelid = r.oid AND t.tgname = 'append_only' AND t.tgenabled IN ('O', 'A')
)
UNION ALL
SELECT format('%s is %s', name, setting) FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'row_security') AND setting <> 'on'
    OR name = 'synchronous_commit' AND setting NOT IN ('on', 'remote_apply')
    OR name = 'session_replication_role' AND setting <> 'origin'
