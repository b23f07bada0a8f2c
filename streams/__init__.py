"""JetStream in, fate out."""
