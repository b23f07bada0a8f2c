-- The edge asks short questions only. Its own deadlines end a call on its side; these end it here, where a statement
-- that waits for a lock would otherwise hold its backend for as long as the lock is held, and each retry one more.

-- A role's settings are the administrator's to change; they hold behind PgBouncer too.
SET LOCAL ROLE NONE;
DO $$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY ARRAY[
        'statement_timeout = ''2s''', 'lock_timeout = ''1s''', 'client_connection_check_interval = ''500ms'''
    ] LOOP
        EXECUTE format('ALTER ROLE fg_edge IN DATABASE %I SET %s', current_database(), setting);
    END LOOP;
END
$$;
SET LOCAL ROLE fg_owner;
