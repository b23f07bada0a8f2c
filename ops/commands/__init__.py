"""The commands of `frostgate`, one module each, loaded when called."""
