"""Attacks that have happened, and rules for the whole source tree."""
