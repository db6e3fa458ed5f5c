"""The digest of a run, implemented from docs/runs.md and RFC 8785 alone, so that it can disagree with the product's.

Rules: it takes events as decoded JSON, in the order of `seq`, merged deltas or not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

_NOT_COVERED: Final = ("seq", "seq_from", "count", "digest", "timestamp")
_DELTAS: Final = ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS")
_SAFE: Final = 9007199254740991
_string: Final = json.JSONEncoder(ensure_ascii=False).encode
_exact: Final = msgspec.json.Encoder().encode
_known: Final[dict[bytes, str]] = {}
"""Computed digests: a run has as many as readers that received it completely."""
_MAX_KNOWN: Final = 1_000


def digest(events: Sequence[dict[str, Any]]) -> str:
    """SHA-256 over the normal form, in hex."""
    asked = _exact(events)
    found = _known.get(asked)
    if found is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        found = _known[asked] = hashlib.sha256(normal_form(events)).hexdigest()
    return found


def normal_form(events: Iterable[dict[str, Any]]) -> bytes:
    """The input of the digest: a line of canonical JSON for each event, with adjacent deltas joined."""
    lines: list[bytes] = []
    joined: dict[str, Any] | None = None
    text = ""
    for event in events:
        covered = {name: value for name, value in event.items() if name not in _NOT_COVERED}
        if covered.get("type") in _DELTAS and isinstance(covered.get("delta"), str):
            delta = covered.pop("delta")
            if joined is not None and canonical(covered) == canonical(joined):
                text += delta
                continue
            if joined is not None:
                lines.append(canonical({**joined, "delta": text}))
            joined, text = covered, delta
            continue
        if joined is not None:
            lines.append(canonical({**joined, "delta": text}))
            joined = None
        lines.append(canonical(covered))
    if joined is not None:
        lines.append(canonical({**joined, "delta": text}))
    return b"\n".join(lines)


def canonical(value: Any) -> bytes:
    """RFC 8785 JSON of a decoded JSON value."""
    return _written(value).encode()


def _written(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        names = sorted(value) if "".join(value).isascii() else sorted(value, key=_code_units)
        return "{" + ",".join(f"{_written(name)}:{_written(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) <= _SAFE:
        return str(value)
    return _number(float(value))


def _code_units(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def _number(value: float) -> str:
    """A double as ECMAScript prints it (Number::toString)."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # `point` is the position of the decimal point, counted from before the first significant digit.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len((whole + fraction).lstrip("0")))
    digits = digits.rstrip("0")
    size = len(digits)
    if size <= point <= 21:
        return sign + digits + "0" * (point - size)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    rest = f".{digits[1:]}" if size > 1 else ""
    return sign + digits[0] + rest + power
