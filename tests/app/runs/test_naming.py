"""A thread's title: from the question and the answer of its first run, where the question is short."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from narthex.ports.agents import Event, RunInput
from tests.app.runs.rig import Rig, agent

TITLE = "t: It is well."
pytestmark = pytest.mark.parametrize("rig", ["sqlite"], indirect=True)


async def well(run: RunInput) -> AsyncIterator[Event | str]:
    """Answers any question."""
    yield "It is well."


async def title_after(rig: Rig, *questions: str, title: str = "t") -> str:
    """The title of a thread that began with `title`, after this many runs."""
    engine = await rig.node(agent(well))
    thread_id = await rig.thread()
    for number, question in enumerate(questions, 1):
        run = await rig.say(engine, thread_id, question)
        await rig.ended(run)
        await engine.close()
        engine = await rig.node(agent(well))
        if number < len(questions):
            await rig.store.threads.rename(run.tenant, thread_id, title, time.time())
    thread = await rig.store.threads.get(run.tenant, thread_id)
    assert thread is not None
    return thread.title


async def test_a_first_answer_says_what_a_short_question_did_not(rig: Rig) -> None:
    """Every member's devices are notified of the new title."""
    assert await title_after(rig, "t") == TITLE
    assert [value["title"] for name, value in rig.notices if "title" in value] == [TITLE]


@pytest.mark.parametrize("questions", [("t", "t"), ("another question than the title's",)])
async def test_later_answers_and_other_titles_change_nothing(rig: Rig, questions: tuple[str, ...]) -> None:
    """A user's title stays, and so does every title after the first run."""
    assert await title_after(rig, *questions) == "t"
