"""Tests of `narthex.app.fleet`."""
