"""Fault injection against a running stack; never in the wheel."""
