"""Measuring the data plane on this machine, beside two references that promise the same durability."""
