"""One module a stage: a pure rule in a shell that awaits."""
