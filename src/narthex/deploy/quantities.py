"""Durations and sizes as manifests write them. Not here: any file format. Rule: None for text that is no such value."""

from __future__ import annotations

import math
import re
from typing import Final

_SECONDS: Final = {
    "us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
    "hours": 3600.0, "d": 86_400.0, "day": 86_400.0, "days": 86_400.0, "w": 604_800.0,
}  # fmt: skip
_BYTES: Final = {
    "": 1, "b": 1, "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3, "t": 1000**4,
    "ki": 1024, "kib": 1024, "mi": 1024**2, "mib": 1024**2, "gi": 1024**3, "gib": 1024**3, "ti": 1024**4,
}  # fmt: skip
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


def seconds(text: str, *, unit: str = "s") -> float | None:
    """`30`, `30s`, `1m30s`, `1min 30s`, `500ms`, `infinity`; a bare number is in `unit`."""
    given = text.strip().strip("\"'").lower()
    if given in ("infinity", "inf"):
        return math.inf
    total, position = 0.0, 0
    while position < len(given):
        part = _PART.match(given, position)
        if part is None:
            return None
        factor = _SECONDS.get(part[2] or unit)
        if factor is None:
            return None
        total, position = total + float(part[1]) * factor, part.end()
    return total if given else None


def whole(text: str) -> int | None:
    """A whole number."""
    given = text.strip()
    return int(given) if given.isdigit() else None


def size(text: str, *, binary: bool = False) -> float | None:
    """`512Mi`, `1Gi`, `512M`, `1g`, bytes; `binary`: K, M and G are powers of 1024 (Docker, systemd)."""
    part = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().strip("\"'").lower())
    if part is None or part[2] not in _BYTES:
        return None
    unit = part[2]
    if binary and unit in ("k", "kb", "m", "mb", "g", "gb", "t"):
        unit = unit[0] + "i"
    return float(part[1]) * _BYTES[unit]


def mebibytes(count: float) -> str:
    """A size for people: `384 MiB`."""
    return f"{count / 2**20:,.0f} MiB"
