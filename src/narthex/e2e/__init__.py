"""The unified test runner and its scenarios."""
