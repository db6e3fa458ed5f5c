"""Examining from a test: short time-outs, and the first line."""

from __future__ import annotations

from typing import Any, Final

from narthex.doctor.diagnosis import Diagnosis, diagnose
from narthex.doctor.examination import ExaminationOptions, examine
from narthex.doctor.observations import Observations
from narthex.doctor.target import parse_target
from tests.timing import within

TIMEOUT_S: Final = within(0.5)
SETTLE_S: Final = within(0.15)


async def examined(url: str, **options: Any) -> tuple[Diagnosis, Observations]:
    """Examine and diagnose."""
    chosen = {"timeout_s": TIMEOUT_S, "patience_s": TIMEOUT_S * 2, "settle_s": SETTLE_S, **options}
    seen = await examine(parse_target(url), ExaminationOptions(**chosen))
    return diagnose(seen), seen
