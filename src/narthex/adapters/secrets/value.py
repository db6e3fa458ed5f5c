"""A secret given as it is, or by a name that another adapter of this folder reads.

Rules: a value that begins with `gcp-secret://` is a name, any other value is the secret itself.
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.adapters.secrets.gcp import GCP_SCHEME, read_gcp

SecretReader = Callable[[str], str]
"""Reads a secret by its name; raises ConfigError with one problem, a sentence without the secret."""


def read_value(value: str, gcp: SecretReader | None = None) -> str:
    """The secret that `value` is or names.

    Args:
        value: as given in a variable or the file.
        gcp: reads `gcp-secret://` names; None takes Google Secret Manager (extra `narthex[gcp]`).

    Raises:
        ConfigError: the name cannot be read.
    """
    if not value.startswith(GCP_SCHEME):
        return value
    if gcp is None:
        return read_gcp(value)
    return gcp(value)
