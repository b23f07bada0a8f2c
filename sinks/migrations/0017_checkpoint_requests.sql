-- A round is asked for by whoever waits for one, which an edge never does, and of a partition that there is.
DELETE FROM checkpoint_requests WHERE partition NOT BETWEEN 0 AND 15;
ALTER TABLE checkpoint_requests ADD CONSTRAINT known_partition CHECK (partition BETWEEN 0 AND 15);
REVOKE ALL ON checkpoint_requests FROM fg_edge;
