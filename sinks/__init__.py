"""Postgres and the evidence store, always inside a tenant context."""
