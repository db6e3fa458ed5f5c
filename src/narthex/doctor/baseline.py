"""Compares latencies with a saved baseline; pure but for one file read and one written.

Not here: measuring (`gate`). Rules: a budget has a factor and an absolute slack, because 2 ms against 1 ms is noise.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import msgspec

from narthex.errors import ClientError

SLACK_MS: Final = 25.0  # the noise of a scheduler and a shared machine; below it a ratio means nothing


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a known good deployment, in milliseconds by name."""

    url: str
    saved_at: float
    version: str
    figures: dict[str, float]


def slower(figures: dict[str, float], against: Baseline, factor: float) -> list[str]:
    """The figures that are slower than the baseline allows; one phrase each."""
    found: list[str] = []
    for name, before in against.figures.items():
        now = figures.get(name)
        if now is not None and now > before * factor + SLACK_MS:
            found.append(f"{name} {now:.1f} ms, was {before:.1f} ms")
    return found


def save(file: Path, url: str, version: str, figures: dict[str, float]) -> None:
    """Write a baseline. Raises ClientError when the file cannot be written."""
    baseline = Baseline(url=url, saved_at=time.time(), version=version, figures=figures)
    try:
        file.write_text(json.dumps(msgspec.to_builtins(baseline), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ClientError(
            "bad_baseline", "The baseline cannot be written.", "Check the path of --save."
        ) from error


def load(file: Path) -> Baseline:
    """Read a baseline. Raises ClientError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Baseline)
    except (OSError, msgspec.DecodeError) as error:
        raise ClientError(
            "bad_baseline",
            "The baseline file cannot be read.",
            "Check the path, or create a baseline with `narthex gate --save FILE`.",
        ) from error
