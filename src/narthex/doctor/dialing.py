"""Reaches the host: names, TCP, TLS. Raw sockets, because the path to the server matters.

Not here: HTTP (`exchanging`). Rules: every wait has a bound; nothing is sent before the certificate verified; a
failure is a value.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import time
from typing import Final, NamedTuple

import msgspec

from narthex.doctor.observations import Dial, Lookup, Tls
from narthex.doctor.target import Target

MAX_ADDRESSES: Final = 4  # two of each family are enough
_CERTIFICATE: Final = {10: "expired", 9: "not_yet_valid", 62: "wrong_name", 64: "wrong_name"}
"""X509_V_ERR_… numbers of OpenSSL; every other one is `untrusted`."""

_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")


class RawConnection(NamedTuple):
    """An open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connect_ms: float

    def abort(self) -> None:
        """End it at once, with an RST where the system does that."""
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.transport.abort()


def elapsed_ms(began: float) -> float:
    """Milliseconds from `began` of `time.perf_counter()` until now, to a hundredth."""
    return round((time.perf_counter() - began) * 1000, 2)


async def look_up(target: Target, timeout_s: float) -> Lookup:
    """Resolve the host, at most `MAX_ADDRESSES`, in the order that the system prefers."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(
                target.host, target.port, type=socket.SOCK_STREAM
            )
    except TimeoutError:
        return Lookup(error=f"no answer within {timeout_s:g} s", ms=elapsed_ms(began))
    except (OSError, UnicodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "not a host name"
        return Lookup(error=str(detail), ms=elapsed_ms(began))
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    return Lookup(addresses=tuple(addresses[:MAX_ADDRESSES]), ms=elapsed_ms(began))


async def dial(target: Target, address: str, timeout_s: float) -> Dial:
    """Connect, and close again."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address, target.port)
    except TimeoutError:
        return Dial(address=address, outcome="timeout", ms=elapsed_ms(began))
    except ConnectionRefusedError:
        return Dial(address=address, outcome="refused", ms=elapsed_ms(began))
    except OSError as error:
        return Dial(
            address=address, outcome="unreachable", ms=elapsed_ms(began), detail=error.strerror or "failed"
        )
    ms = elapsed_ms(began)
    writer.transport.abort()
    return Dial(address=address, outcome="ok", ms=ms)


def verified_context(alpn: list[str], ca_file: str = "") -> ssl.SSLContext:
    """A context that verifies; `ca_file` adds a root certificate."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.set_alpn_protocols(alpn)
    return context


async def open_connection(target: Target, address: str, timeout_s: float, ca_file: str = "") -> RawConnection:
    """Connect for an exchange, with TLS where the URL says so.

    Raises:
        OSError: TCP or TLS failed (`TimeoutError` and `ssl.SSLError` are such).
    """
    began = time.perf_counter()
    async with asyncio.timeout(timeout_s):
        if target.tls:
            context = verified_context(["http/1.1"], ca_file)
            reader, writer = await asyncio.open_connection(
                address, target.port, ssl=context, server_hostname=target.host, limit=1024 * 1024
            )
        else:
            reader, writer = await asyncio.open_connection(address, target.port, limit=1024 * 1024)
    return RawConnection(reader, writer, elapsed_ms(began))


async def shake_hands(target: Target, address: str, timeout_s: float, ca_file: str = "") -> Tls:
    """Do a TLS handshake as a WebSocket client would, and another one to see the server's other protocols."""
    began = time.perf_counter()
    try:
        found = await _hello(target, address, timeout_s, verified_context(["http/1.1"], ca_file))
    except (OSError, ssl.SSLError) as error:
        failed = _failure(error, elapsed_ms(began))
        if failed.outcome in ("expired", "not_yet_valid", "wrong_name", "untrusted"):
            return await _with_certificate(failed, target, address, timeout_s)
        return failed
    with contextlib.suppress(OSError):
        both = await _hello(target, address, timeout_s, verified_context(["h2", "http/1.1"], ca_file))
        found = msgspec.structs.replace(found, prefers=both.alpn, ms=elapsed_ms(began))
    return found


async def answers_tls(target: Target, address: str, timeout_s: float) -> bool:
    """Whether the port speaks TLS, with any certificate. Nothing else is sent."""
    try:
        await _hello(target, address, timeout_s, _blind_context())
    except OSError:
        return False
    return True


async def _hello(target: Target, address: str, timeout_s: float, context: ssl.SSLContext) -> Tls:
    began = time.perf_counter()
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(
            address, target.port, ssl=context, server_hostname=target.host
        )
    ms = elapsed_ms(began)
    shaken: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = shaken.getpeercert(binary_form=True) or b""
    names, issuer, not_after = _read_certificate(certificate)
    found = Tls(
        outcome="ok", version=shaken.version() or "", alpn=shaken.selected_alpn_protocol() or "", names=names,
        issuer=issuer, not_after=not_after, ms=ms,
    )  # fmt: skip
    writer.transport.abort()
    return found


def _blind_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to look at a certificate that does not verify; nothing is sent
    return context


async def _with_certificate(failed: Tls, target: Target, address: str, timeout_s: float) -> Tls:
    try:
        seen = await _hello(target, address, timeout_s, _blind_context())
    except OSError:
        return failed
    return msgspec.structs.replace(
        failed, version=seen.version, names=seen.names, issuer=seen.issuer, not_after=seen.not_after
    )


def _failure(error: OSError, ms: float) -> Tls:
    if isinstance(error, ssl.SSLCertVerificationError):
        outcome = _CERTIFICATE.get(error.verify_code, "untrusted")
        return Tls(outcome=outcome, detail=error.verify_message, ms=ms)
    if isinstance(error, TimeoutError):
        return Tls(outcome="timeout", ms=ms)
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if error.reason in _NOT_TLS:
            return Tls(outcome="not_tls", detail=reason, ms=ms)
        alpn = "application protocol" in reason
        return Tls(outcome="alpn" if alpn else "failed", detail=reason, ms=ms)
    return Tls(outcome="closed", detail=error.strerror or "connection closed", ms=ms)


def _read_certificate(der: bytes) -> tuple[tuple[str, ...], str, str]:
    """Names, issuer and last day of a DER certificate. cryptography comes with joserfc."""
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer = certificate.issuer
        found = [
            *issuer.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME),
            *issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME),
        ]
        until: dt.datetime = certificate.not_valid_after_utc
        names = _names_of(certificate)
    except ValueError:
        return (), "", ""
    return names, " ".join(str(name.value) for name in found), until.date().isoformat()


def _names_of(certificate: object) -> tuple[str, ...]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(address) for address in extension.get_values_for_type(x509.IPAddress)]
    return (*extension.get_values_for_type(x509.DNSName), *addresses)[:8]
