"""Attacks that have happened, and rules that hold over the whole source tree."""
