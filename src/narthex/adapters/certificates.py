"""Reads when the TLS certificate of a connection's peer ends.

Not here: verifying it, which the libraries do at the handshake. Rule: without TLS, where a library hides its transport,
and for a certificate that OpenSSL took and the parser refuses, the answer is 0.0, and nothing warns the operator.
"""

from __future__ import annotations

import datetime as dt
from typing import Any


def certificate_end(transport: Any) -> float:
    """The end of the peer's certificate, in seconds since the epoch; 0.0 where it is not known.

    Args:
        transport: an asyncio transport or stream writer; None: there is none.
    """
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    shown: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
    if not shown:
        return 0.0
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def certificate_words(ends_at: float) -> list[str]:
    """For `narthex check --connect`: nothing without TLS."""
    if not ends_at:
        return []
    return [f"TLS certificate until {dt.datetime.fromtimestamp(ends_at, dt.UTC).date().isoformat()}"]
