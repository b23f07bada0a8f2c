-- Run before the numbered migrations, every time; where nothing is missing it changes nothing.
-- As the administrator: a superuser, or the owner of the database with CREATEROLE.

DO $$
DECLARE
    role text;
    attributes text;
    -- Before version 16 a membership has no options: a member may become the role, and inherits nothing when it was made
    -- with NOINHERIT, as all of these are.
    has_options boolean := current_setting('server_version_num')::integer >= 160000;
BEGIN
    -- Roles belong to the whole server: another of its databases may have made one, or be making it now.
    FOR role, attributes IN VALUES
        ('fg_owner', 'NOLOGIN'), ('fg_edge', 'LOGIN'), ('fg_worker', 'LOGIN'), ('fg_admin', 'LOGIN'),
        ('fg_retention', 'NOLOGIN')
    LOOP
        BEGIN
            IF to_regrole(role) IS NULL THEN
                EXECUTE format('CREATE ROLE %I %s NOINHERIT', role, attributes);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    -- The administrator of tenants becomes the role that deletes for as long as a transaction asks, and never by itself.
    BEGIN
        IF NOT pg_has_role('fg_admin', 'fg_retention', CASE WHEN has_options THEN 'SET' ELSE 'MEMBER' END) THEN
            EXECUTE 'GRANT fg_retention TO fg_admin'
                || CASE WHEN has_options THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT fg_owner TO CURRENT_USER;
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO fg_edge, fg_worker, fg_admin', current_database());
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO fg_owner;
GRANT USAGE ON SCHEMA public TO fg_edge, fg_worker, fg_admin, fg_retention;
CREATE SCHEMA IF NOT EXISTS app AUTHORIZATION fg_owner;

SET LOCAL ROLE fg_owner;
GRANT USAGE ON SCHEMA app TO fg_edge, fg_worker, fg_admin, fg_retention;
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 char(64) NOT NULL,
    applied_at timestamptz(3) NOT NULL DEFAULT now()
);
RESET ROLE;
