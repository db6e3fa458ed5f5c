"""Tests of `narthex.adapters.edge.upstream`."""
