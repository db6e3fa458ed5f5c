"""Tests of manifests: written, checked by their real checkers, run; and of the pipelines."""
