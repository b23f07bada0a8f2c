-- Rows that live for a second: compressing a record on its way in and out would cost a quarter of what a decision
-- costs the server.
ALTER TABLE evidence_outbox SET (toast_tuple_target = 8160);
