"""The words every part shares: wire types, codes, subjects, hashes. No I/O, nothing of ours imported."""
