"""The version of this package. It imports nothing, so that every layer may read it."""

__version__ = "0.2.0.dev0"
