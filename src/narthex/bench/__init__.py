"""The load generator and the baseline."""
