"""Concurrent exports of a user: exact at N and N+1, and each slot is released once."""

from __future__ import annotations

import msgspec
import pytest

from narthex.app.exports import ExportSlots
from narthex.domain.identity import Identity
from narthex.domain.plans import PLANS
from narthex.errors import ClientError

ANN, BOB = Identity(subject="ann"), Identity(subject="bob")


def test_as_many_exports_as_the_plan_allows_and_not_one_more() -> None:
    """Counted per user; the refusal has the limit."""
    slots = ExportSlots(lambda _: msgspec.structs.replace(PLANS["free"], exports=2))
    first, _ = slots.take(ANN), slots.take(ANN)
    with pytest.raises(ClientError, match="allows 2 concurrent exports") as caught:
        slots.take(ANN)
    assert (caught.value.code, caught.value.number) == ("exports_limit", 429)
    slots.take(BOB).release()
    first.release()
    first.release()
    assert (slots.active(ANN), slots.active(BOB)) == (1, 0)
    slots.take(ANN)
    with pytest.raises(ClientError):
        slots.take(ANN)
