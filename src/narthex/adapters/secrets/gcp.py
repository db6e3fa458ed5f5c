"""A secret in Google Secret Manager: `gcp-secret://projects/P/secrets/S/versions/V`.

Rules: read once, at start, in the parent process; one deadline for the call; nothing of the secret is in
an error. The library (extra `narthex[gcp]`, about 100 MB) is imported only when a name asks for it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from narthex.errors import ConfigError
from narthex.extras import ExtraMissing, Need

READ_TIMEOUT_S: Final = 10.0  # start-up is waiting; Cloud Run's own start deadline is minutes
_NAME: Final = re.compile(r"projects/[^/\s]+(/locations/[^/\s]+)?/secrets/[^/\s]+(/versions/[^/\s]+)?")

GCP_SCHEME: Final = "gcp-secret://"


def read_gcp(reference: str, *, client: Any = None, timeout_s: float = READ_TIMEOUT_S) -> str:
    """The secret that `reference` names; without a version the latest.

    Args:
        reference: `gcp-secret://projects/P/secrets/S[/versions/V]`, also with `locations/L` for a regional one.
        client: a `SecretManagerServiceClient`, None makes one with the machine's own credentials.
        timeout_s: one deadline for the call, retries inside it.

    Raises:
        ConfigError: a malformed name, no access, or not there; `ExtraMissing` without the extra.
    """
    name = reference.removeprefix(GCP_SCHEME)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            [f"{reference} is not a Secret Manager name. Write {GCP_SCHEME}projects/P/secrets/S/versions/V."]
        )
    if "/versions/" not in name:
        name += "/versions/latest"
    try:
        from google.api_core.exceptions import GoogleAPICallError, RetryError, ServiceUnavailable
        from google.api_core.retry import Retry, if_exception_type
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import secretmanager
    except ImportError as error:
        raise ExtraMissing(Need("gcp", reference)) from error
    # `timeout` bounds one attempt only; without a retry of our own the library goes on for 60 s.
    retry = Retry(if_exception_type(ServiceUnavailable), initial=0.2, maximum=1.0, timeout=timeout_s)
    try:
        client = client or secretmanager.SecretManagerServiceClient()
        answer = client.access_secret_version(request={"name": name}, timeout=timeout_s, retry=retry)
        payload = answer.payload
    except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
        raise ConfigError([_problem(reference, error)]) from error
    return _text(reference, payload)


def _problem(reference: str, error: Exception) -> str:
    kind = type(error).__name__
    remedies = {
        "PermissionDenied": "Grant this service account roles/secretmanager.secretAccessor on it.",
        "NotFound": "Create it, or fix the name.",
        "FailedPrecondition": "Enable that version, or name another.",
        "DefaultCredentialsError": "Run where a service account is attached, or set GOOGLE_APPLICATION_CREDENTIALS.",
    }
    return f"{reference} cannot be read ({kind}). " + remedies.get(
        kind, "Check that Secret Manager is reachable."
    )


def _text(reference: str, payload: Any) -> str:
    data = bytes(payload.data)
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError([f"{reference} is not UTF-8 text. Store the secret as text."]) from None
    if not text.strip():
        raise ConfigError([f"{reference} is empty. Add a version that holds the secret."])
    return text
