"""The witness: somebody else's process, which countersigns each round once and remembers what it saw."""
