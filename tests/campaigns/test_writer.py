"""The writer of the campaigns: for how long it repeats a publication under one key."""

from __future__ import annotations

import pytest

from tests.campaigns import writer
from tests.campaigns.writer import Writer
from tests.history import Recorder
from tests.history.records import Acknowledged, Attempted


@pytest.mark.parametrize(("repeated_s", "marks"), [(60.0, ["m", "m"]), (0.0, ["m", "m+"])])
async def test_a_key_is_repeated_only_while_it_counts(
    monkeypatch: pytest.MonkeyPatch, repeated_s: float, marks: list[str]
) -> None:
    """Afterwards the publication is offered under another key: a repeat could be a second one."""
    monkeypatch.setattr(writer, "REPEATED_S", repeated_s)
    recorder = Recorder()
    one = Writer([1], "thread:t", "w", 1, 60.0, recorder)
    answers = iter([None, writer._Placed("e", 1)])

    async def post(_: str) -> object:
        return next(answers)

    monkeypatch.setattr(one, "_post", post)
    assert (await one.publish("m")).mark == marks[-1]
    history = recorder.history()
    assert [record.key for record in history if isinstance(record, Attempted)] == marks
    assert [record.key for record in history if isinstance(record, Acknowledged)] == marks[-1:]
    assert (one.errors, one.unknown) == (1, len(set(marks)) - 1)
