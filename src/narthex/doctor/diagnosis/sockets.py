"""Rules for a 101: its correctness, and the socket's behaviour afterwards.

Not here: the conversation with a narthex (`gateways`).
"""

from __future__ import annotations

from typing import Final

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.knowledge import numbers
from narthex.doctor.observations import Close, HttpExchange
from narthex.domain.refusals import TABLE

_MEANINGS: Final = {
    1000: "the server ended the connection normally",
    1001: "the server is going away (a restart or deploy)",
    1002: "the server received a protocol error",
    1003: "the server does not accept this type of data",
    1005: "the server gave no code",
    1008: "a policy violation, usually the credential or the Origin",
    1009: "a message exceeds the server's limit",
    1011: "the server's handler raised an exception",
    1012: "the server restarts: reconnect",
    1013: "the server is overloaded: retry later",
    4401: "the application requires a credential",
    4403: "the application refuses the credential",
}


def socket_fault(made: HttpExchange) -> Finding | None:
    """The fault of a socket that answered 101; None when there is none."""
    if made.faults:
        return _handshake(made)
    if made.close is not None:
        code, meaning = made.close.code, meaning_of(made.close)
        return found("closed_after_accept", code=code, ms=made.close.after_ms, meaning=meaning)
    if made.frame_fault:
        return found("bad_frames", fault=made.frame_fault)
    if made.cut_ms is not None:
        return found("cut_after_accept", ms=made.cut_ms)
    if made.pong_ms is None:
        return found("no_pong", seconds="3")
    return None


def meaning_of(close: Close) -> str:
    """The meaning of a close code, with the server's reason."""
    code, _, text = close.reason.partition(":")
    if code in TABLE:
        return f"`{code}`:{text}" if text else TABLE[code].title
    known = numbers().get(close.code)
    meaning = _MEANINGS.get(close.code) or (known.name if known is not None else "the application's own code")
    return f"{meaning} ({close.reason})" if close.reason else meaning


def _handshake(made: HttpExchange) -> Finding:
    faults = made.faults
    names = {"upgrade_missing": "Upgrade", "connection_missing": "Connection"}
    if lost := [name for fault, name in names.items() if fault in faults]:
        return found("upgrade_header_missing", which=" and ".join(lost))
    if "accept_missing" in faults or "accept_wrong" in faults:
        return found("bad_accept", which="missing" if "accept_missing" in faults else "wrong")
    if "subprotocol_not_offered" in faults:
        return found("subprotocol_not_offered")
    return found("extension_not_offered")
