"""Tests mirror src; see docs/map.md."""
