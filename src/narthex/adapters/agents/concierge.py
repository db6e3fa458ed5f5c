"""The built-in agent: a concierge with tools over the gateway itself. It needs no key and no model.

It understands a handful of requests by matching words, and says so when it does not understand. Its answers are
true: it reports the gateway's current health, and explains a refusal by the table that the gateway uses. Not here:
streaming text (`speech`), rendering (`concierge_reports`), the slow task (`concierge_watch`). Rules: a skill is one
async generator; text is deterministic wherever a test may rely on it (`count to`, `echo`); the run's deadline bounds
every wait.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from narthex.adapters.agents.concierge_reports import (
    HELP,
    MARKDOWN,
    brief,
    cell,
    health_report,
    refusal_codes,
    refusal_report,
)
from narthex.adapters.agents.concierge_watch import Facts, Items, Watch, listen
from narthex.adapters.agents.speech import ToolCallEvents, say, think
from narthex.app.tasks import end_tasks
from narthex.domain.refusals import TABLE
from narthex.ports.agents import Agent, Event, RunInput

Skill = Callable[["Concierge", RunInput, re.Match[str]], Items]

NAME: Final = "concierge"
SUGGESTIONS: Final = ("help", "health", "who am I", "check with approval", "count to 20")
PACE_S: Final = 0.02  # 50 words a second: fast reading, and visibly a stream
MAX_COUNT: Final = 100_000
WATCH_DEFAULT_S: Final = 10
WATCH_MOST_S: Final = 300
APPROVAL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean", "title": "Go ahead"},
        "note": {"type": "string", "title": "Note", "maxLength": 500},
    },
    "required": ["approved"],
    "additionalProperties": False,
}


class Concierge:
    """See the module. `pace_s` is the pause between two words."""

    def __init__(self, facts: Facts, pace_s: float) -> None:
        self._facts = facts
        self.pace_s = pace_s

    async def run(self, run: RunInput) -> Items:
        """Answer the last message."""
        text = _said(run)
        for pattern, skill in SKILLS:
            match = pattern.search(text)
            if match is None:
                continue
            async for item in skill(self, run, match):
                if isinstance(item, str):
                    async for word in say(item, self.pace_s):
                        yield word
                else:  # a thought has its own pace
                    yield item
            return
        quoted = text if len(text) <= 60 else text[:60] + "…"
        lost = f"I do not understand “{quoted}”: I match words, I have no language model.\n\n{HELP}"
        async for word in say(lost, self.pace_s):
            yield word

    def _think(self, text: str) -> AsyncIterator[Event]:
        return think(text, self.pace_s / 2)

    # -- skills --------------------------------------------------------------------------------------------

    async def help(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """Answer with the concierge's abilities."""
        yield HELP

    async def hello(self, run: RunInput, _match: re.Match[str]) -> Items:
        """A greeting by name."""
        name = run.user.name or run.user.subject
        yield f"Hello, {name}. Say `help` to see what I can do."

    async def health(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """The gateway's health, asked for now."""
        async for thought in self._think("I will ask the gateway for its health."):
            yield thought
        call = ToolCallEvents("get_health", {})
        for event in call.begin():
            yield event
        body = await self._facts()
        yield call.end(brief(body))
        yield health_report(body)

    async def who(self, run: RunInput, _match: re.Match[str]) -> Items:
        """Answer with the user's identity."""
        call = ToolCallEvents("who_am_i", {})
        for event in call.begin():
            yield event
        about = {name: value for name, value in msgspec.to_builtins(run.user).items() if value}
        yield call.end(about)
        rows = "\n".join(f"| {name} | `{cell(value)}` |" for name, value in about.items())
        yield f"The gateway identifies you as:\n\n| property | value |\n| --- | --- |\n{rows}\n"

    async def refused(self, _run: RunInput, match: re.Match[str]) -> Items:
        """Explain a refusal by code, HTTP status or close code."""
        async for thought in self._think("I will look that up in the table of refusals."):
            yield thought
        asked = match.string
        call = ToolCallEvents("explain_refusal", {"question": asked[:200]})
        for event in call.begin():
            yield event
        codes = refusal_codes(asked)
        yield call.end([{"code": code, **TABLE[code]._asdict()} for code in codes])
        yield refusal_report(asked, codes)

    async def codes(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """Every refusal."""
        rows = "\n".join(
            f"| `{code}` | {row.http or '–'} | {row.close or '–'} | {row.title} |"
            for code, row in TABLE.items()
        )
        table = f"| code | HTTP | close | meaning |\n| --- | --- | --- | --- |\n{rows}\n"
        yield table

    async def echo(self, _run: RunInput, match: re.Match[str]) -> Items:
        """The same words again, to the byte, by way of a tool."""
        said = match[1] or " "
        call = ToolCallEvents("echo", {"text": said})
        for event in call.begin():
            yield event
        yield call.end(said)
        yield said

    async def count(self, _run: RunInput, match: re.Match[str]) -> Items:
        """`1 2 3 … N`: the same text every time, whatever the pace."""
        last = min(int(match[1]), MAX_COUNT)
        how = (match[2] or "").strip()
        pace_s = {"fast": 0.0, "slowly": 0.1}.get(how, self.pace_s)
        for number in range(1, last + 1):
            yield f"{number}" if number == last else f"{number} "
            if pace_s:
                await asyncio.sleep(pace_s)

    async def markdown(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """Answer with every kind of content that a page renders."""
        yield MARKDOWN

    async def time(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """The server's time."""
        now = datetime.now(UTC)
        yield f"It is {now:%Y-%m-%d %H:%M:%S} UTC here."

    async def approve(self, run: RunInput, _match: re.Match[str]) -> Items:
        """A task that asks for approval before it does anything."""
        yield "I am about to check every part of the gateway. Do you approve?"
        try:
            answer = await run.ask(APPROVAL, "Check every part of the gateway now?")
        except TimeoutError:
            return
        if not answer["approved"]:
            note = f" You said: “{answer['note']}”" if answer.get("note") else ""
            yield f"All right, I did not check anything.{note}"
            return
        async for item in self.health(run, _match):
            yield item

    async def watch(self, run: RunInput, match: re.Match[str]) -> Items:
        """A slow task with steps and progress, that can be steered and cancelled."""
        total_s = min(float(match["seconds"] or WATCH_DEFAULT_S), WATCH_MOST_S)
        heard: asyncio.Queue[str] = asyncio.Queue(32)
        listener = asyncio.get_running_loop().create_task(listen(run, heard))
        try:
            async for item in Watch(self._facts, self.pace_s, total_s, heard).run():
                yield item
        finally:
            await end_tasks(listener)


def _said(run: RunInput) -> str:
    """The user's text without a mention at its beginning."""
    said = next((message.content for message in reversed(run.messages) if message.role == "user"), "")
    return re.sub(r"^\s*@[\w.-]+[,:]?\s*", "", said).strip()


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


SKILLS: Final[tuple[tuple[re.Pattern[str], Skill], ...]] = (
    (_pattern(r"^echo(?:\s+(.*))?$"), Concierge.echo),
    (_pattern(r"\bcount\s+(?:up\s+)?to\s+(\d{1,9})(\s+(?:fast|slowly))?"), Concierge.count),
    (
        _pattern(r"\b(?:watch|slow task|long task|slow)\b(?:\D*(?P<seconds>\d+(?:\.\d+)?)\s*s)?"),
        Concierge.watch,
    ),
    (_pattern(r"\b(?:codes|all refusals)\b"), Concierge.codes),
    (_pattern(r"\b(?:refus\w*|reject\w*|denied|why)\b|^\D{0,12}[1345]\d{2,3}\W*$"), Concierge.refused),
    (_pattern(r"\b(?:approv\w*|permission|ask me)\b"), Concierge.approve),
    (_pattern(r"\b(?:health\w*|status|how are you)\b"), Concierge.health),
    (_pattern(r"\bwho\s*am\s*i\b|\bwhoami\b"), Concierge.who),
    (_pattern(r"\b(?:markdown|table|code)\b"), Concierge.markdown),
    (_pattern(r"\b(?:time|date)\b"), Concierge.time),
    (_pattern(r"\b(?:help|what can you do|commands)\b|^\?*$"), Concierge.help),
    (_pattern(r"^(?:hello|hi|hey|good (?:morning|evening|day))\b"), Concierge.hello),
)
"""Words → skill; the first that matches wins."""


def concierge(facts: Facts, *, pace_s: float = PACE_S, name: str = NAME) -> Agent:
    """The built-in agent.

    Args:
        facts: gives the body of `/ws/health`; called when a person asks, so it should be cached.
        pace_s: pause between two words.
        name: its public name.
    """
    return Agent(
        name=name,
        suggestions=SUGGESTIONS,
        function=partial(Concierge.run, Concierge(facts, pace_s)),
        restartable=False,
        description="The gateway's built-in concierge: its health, your identity, the reasons for refusals.",
    )
