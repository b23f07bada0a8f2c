"""The process: command line, settings, wiring, embedded servers."""
