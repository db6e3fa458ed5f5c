"""The built-in agent: a concierge with tools over the gateway itself. It needs no key and no model.

It understands a handful of things by matching words, and says so when it does not. What it tells is true: the
health it reports was asked for, the refusal it explains is a row of the table that refuses. Not here: how it
talks (`speech`). Rules: a skill is one async generator; text is deterministic wherever a test may count on it
(`count to`, `echo`); everything it waits for is bounded by the run's deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from narthex.adapters.agents.speech import ToolCall, say, think
from narthex.domain import events as ev
from narthex.domain.refusals import TABLE
from narthex.ports.agents import Agent, Event, RunInput

Facts = Callable[[], Awaitable[Mapping[str, Any]]]
"""What the concierge may know of the gateway: the body of `/ws/health`."""
Items = AsyncIterator[Event | str]
Skill = Callable[["Concierge", RunInput, re.Match[str]], Items]

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

_HELP: Final = """I am the concierge of this gateway. I have no language model; I understand these things:

| say | and I will |
| --- | --- |
| `health` | ask the gateway how it is, and show every check |
| `who am I` | tell who the gateway takes you for |
| `why was I refused 401` | explain a refusal by its code, HTTP status or close code |
| `codes` | list every refusal there is |
| `watch for 10 seconds` | watch the gateway's health, step by step; steer me with `faster`, `slower` or `enough` |
| `check with approval` | ask for your approval first, then check everything |
| `count to 20` | count, word by word (`fast`, `slowly`) |
| `echo …` | say what you said |
| `markdown` | show a table, a list and code |
| `time` | tell the server's time |

To talk to an agent of your own, start `narthex serve --agent your_module:your_function`.
"""

_MARKDOWN: Final = """Here is what I can format.

## A table

| event | when |
| --- | --- |
| `RUN_STARTED` | a run begins |
| `TEXT_MESSAGE_CONTENT` | text streams |
| `RUN_FINISHED` | it is over, with `count` and `digest` |

## Code

```python
async def agent(run):
    yield "Hello, "
    yield run.user.name or run.user.subject
```

- *emphasis* and **strong words**
- a [link](https://docs.ag-ui.com)
- `inline code`
"""


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
            if match is not None:
                async for item in skill(self, run, match):
                    yield item
                return
        async for item in self._lost(text):
            yield item

    # -- talking -------------------------------------------------------------------------------------------

    def _say(self, text: str) -> AsyncIterator[str]:
        return say(text, self.pace_s)

    def _think(self, text: str) -> AsyncIterator[Event]:
        return think(text, self.pace_s / 2)

    async def _lost(self, text: str) -> Items:
        quoted = text if len(text) <= 60 else text[:60] + "…"
        async for word in self._say(
            f"I do not understand “{quoted}”: I match words, I have no language model.\n\n{_HELP}"
        ):
            yield word

    # -- skills --------------------------------------------------------------------------------------------

    async def help(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """What it can do."""
        async for word in self._say(_HELP):
            yield word

    async def hello(self, run: RunInput, _match: re.Match[str]) -> Items:
        """A greeting by name."""
        name = run.user.name or run.user.subject
        async for word in self._say(f"Hello, {name}. Say `help` to see what I can do."):
            yield word

    async def health(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """The gateway's health, asked for now."""
        async for thought in self._think("The gateway knows best how it is. I will ask it."):
            yield thought
        call = ToolCall("get_health", {})
        for event in call.begin():
            yield event
        body = await self._facts()
        yield call.end(_brief(body))
        async for word in self._say(_health_report(body)):
            yield word

    async def who(self, run: RunInput, _match: re.Match[str]) -> Items:
        """Who is asking."""
        call = ToolCall("who_am_i", {})
        for event in call.begin():
            yield event
        about = {name: value for name, value in msgspec.to_builtins(run.user).items() if value}
        yield call.end(about)
        rows = "\n".join(f"| {name} | `{_cell(value)}` |" for name, value in about.items())
        async for word in self._say(
            f"The gateway takes you for:\n\n| what | value |\n| --- | --- |\n{rows}\n"
        ):
            yield word

    async def refused(self, _run: RunInput, match: re.Match[str]) -> Items:
        """Why somebody was refused, by code, HTTP status or close code."""
        async for thought in self._think("Every refusal is a row of one table. I will look there."):
            yield thought
        asked = match.string
        call = ToolCall("explain_refusal", {"question": asked[:200]})
        for event in call.begin():
            yield event
        codes = refusal_codes(asked)
        yield call.end([{"code": code, **TABLE[code]._asdict()} for code in codes])
        async for word in self._say(_refusal_report(asked, codes)):
            yield word

    async def codes(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """Every refusal."""
        rows = "\n".join(
            f"| `{code}` | {row.http or '–'} | {row.close or '–'} | {row.title} |"
            for code, row in TABLE.items()
        )
        table = f"| code | HTTP | close | meaning |\n| --- | --- | --- | --- |\n{rows}\n"
        async for word in self._say(table):
            yield word

    async def echo(self, _run: RunInput, match: re.Match[str]) -> Items:
        """The same words again, to the byte, by way of a tool."""
        said = match[1] or " "
        call = ToolCall("echo", {"text": said})
        for event in call.begin():
            yield event
        yield call.end(said)
        async for word in self._say(said):
            yield word

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
        """What a page has to render."""
        async for word in self._say(_MARKDOWN):
            yield word

    async def time(self, _run: RunInput, _match: re.Match[str]) -> Items:
        """The server's time."""
        now = datetime.now(UTC)
        async for word in self._say(f"It is {now:%Y-%m-%d %H:%M:%S} UTC here."):
            yield word

    async def approve(self, run: RunInput, _match: re.Match[str]) -> Items:
        """A task that asks for approval before it does anything."""
        async for word in self._say("I am about to check every part of the gateway. May I?"):
            yield word
        try:
            answer = await run.ask(APPROVAL, "Check every part of the gateway now?")
        except TimeoutError:
            return
        if not answer["approved"]:
            note = f" You said: “{answer['note']}”" if answer.get("note") else ""
            async for word in self._say(f"All right, I have checked nothing.{note}"):
                yield word
            return
        async for item in self.health(run, _match):
            yield item

    async def watch(self, run: RunInput, match: re.Match[str]) -> Items:
        """A slow task with steps and progress, that can be steered and cancelled."""
        total_s = min(float(match["seconds"] or WATCH_DEFAULT_S), WATCH_MOST_S)
        heard: asyncio.Queue[str] = asyncio.Queue(32)
        listener = asyncio.get_running_loop().create_task(_listen(run, heard))
        try:
            async for item in _Watch(self._facts, self.pace_s, total_s, heard).run():
                yield item
        finally:
            listener.cancel()


class _Watch:
    """Watches the gateway's health for a while."""

    def __init__(self, facts: Facts, pace_s: float, total_s: float, heard: asyncio.Queue[str]) -> None:
        self._facts = facts
        self._pace_s = pace_s
        self._total_s = total_s
        self._heard = heard
        self._every_s = max(0.5, total_s / 5)
        self._enough = False
        self._seen: list[tuple[str, float]] = []

    async def run(self) -> Items:
        """Look, wait, look again; then sum up."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async for thought in think(
            f"I will watch for {self._total_s:g} seconds and look every {self._every_s:g}.", self._pace_s / 2
        ):
            yield thought
        yield ev.state_snapshot({"watch": {"seconds": 0, "of": self._total_s, "looks": 0}})
        while not self._enough:
            async for item in self._look(loop.time() - began):
                yield item
            left_s = self._total_s - (loop.time() - began)
            if left_s <= 0:
                break
            async for item in self._pause(min(self._every_s, left_s)):
                yield item
        async for word in say(self._summary(loop.time() - began), self._pace_s):
            yield word

    async def _look(self, elapsed_s: float) -> Items:
        name = f"look {len(self._seen) + 1}"
        yield ev.step_started(name)
        call = ToolCall("get_health", {"look": len(self._seen) + 1})
        for event in call.begin():
            yield event
        began = asyncio.get_running_loop().time()
        body = await self._facts()
        took_ms = (asyncio.get_running_loop().time() - began) * 1000
        self._seen.append((str(body.get("status", "unknown")), took_ms))
        yield call.end({"status": self._seen[-1][0], "took_ms": round(took_ms, 1)})
        yield ev.state_delta(
            [
                {"op": "replace", "path": "/watch/seconds", "value": round(elapsed_s, 1)},
                {"op": "replace", "path": "/watch/looks", "value": len(self._seen)},
            ]
        )
        yield ev.step_finished(name)

    async def _pause(self, wait_s: float) -> Items:
        """Wait, but hear what people say meanwhile."""
        try:
            async with asyncio.timeout(wait_s):
                said = await self._heard.get()
        except TimeoutError:
            return
        async for word in say(self._obey(said) + "\n\n", self._pace_s):
            yield word

    def _obey(self, said: str) -> str:
        wish = said.strip().lower()
        if "fast" in wish:
            self._every_s = max(0.2, self._every_s / 2)
            return f"Faster: I look every {self._every_s:.1f} seconds now."
        if "slow" in wish:
            self._every_s = min(30.0, self._every_s * 2)
            return f"Slower: I look every {self._every_s:.1f} seconds now."
        if wish.rstrip(".!") in {"enough", "stop", "done", "finish"}:
            self._enough = True
            return "Enough: I sum up."
        return f"Noted: “{said[:100]}”. (I understand `faster`, `slower` and `enough`.)"

    def _summary(self, elapsed_s: float) -> str:
        states = [status for status, _ in self._seen]
        worst = max(took_ms for _, took_ms in self._seen)
        counted = ", ".join(f"{states.count(state)} × {state}" for state in sorted(set(states)))
        return (
            f"I watched for {elapsed_s:.0f} seconds and looked {len(states)} times: {counted}. "
            f"The slowest look took {worst:.0f} ms."
        )


async def _listen(run: RunInput, heard: asyncio.Queue[str]) -> None:
    async for said in run.steer:
        await heard.put(said)


def _said(run: RunInput) -> str:
    """What the person said, without a mention at its beginning."""
    said = next((message.content for message in reversed(run.messages) if message.role == "user"), "")
    return re.sub(r"^\s*@[\w.-]+[,:]?\s*", "", said).strip()


def refusal_codes(text: str) -> list[str]:
    """The refusals that a text names: by code, HTTP status or close code."""
    named = [code for code in TABLE if re.search(rf"\b{code}\b", text)]
    if named:
        return named
    numbers = {int(number) for number in re.findall(r"\b\d{3,4}\b", text)}
    return [code for code, row in TABLE.items() if row.http in numbers or row.close in numbers]


def _refusal_report(asked: str, codes: list[str]) -> str:
    if re.search(r"\b1006\b", asked):
        return (
            "1006 is no answer of the gateway: the browser hides a refused handshake behind it. Ask "
            "`GET /ws/preflight` with the same credential, or offer the subprotocol `narthex.explain`, and the "
            "reason comes in words.\n"
        )
    if not codes:
        return (
            "Tell me the code, the HTTP status or the close code that you saw, for example "
            "`why was I refused token_expired` or `why 3500`. Every refusal carries its code: in the JSON body, "
            "or at the beginning of the close reason. `codes` lists them all.\n"
        )
    rows = "\n".join(
        f"| `{code}` | {TABLE[code].http or '–'} | {TABLE[code].close or '–'} | {TABLE[code].title} "
        f"| {TABLE[code].remedy} |"
        for code in codes
    )
    return f"| code | HTTP | close | what happened | what to do |\n| --- | --- | --- | --- | --- |\n{rows}\n"


def _brief(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the health body that are worth showing as a tool's result."""
    return {
        name: body[name] for name in ("status", "service", "version", "environment", "checks") if name in body
    }


def _health_report(body: Mapping[str, Any]) -> str:
    checks = body.get("checks") or {}
    rows = "\n".join(
        f"| {name} | {check.get('status', '?')} | {_ms(check.get('latency_ms'))} | {_cell(check.get('detail', ''))} |"
        for name, check in checks.items()
    )
    status = body.get("status", "unknown")
    table = f"\n\n| check | status | ms | detail |\n| --- | --- | --- | --- |\n{rows}" if rows else ""
    return f"The gateway is **{status}**.{table}\n"


def _ms(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "–"


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


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


def concierge(facts: Facts, *, pace_s: float = PACE_S) -> Agent:
    """The built-in agent.

    Args:
        facts: gives the body of `/ws/health`; called when a person asks, so it should be cached.
        pace_s: pause between two words.
    """
    return Agent(
        name="concierge",
        function=partial(Concierge.run, Concierge(facts, pace_s)),
        restartable=False,
        description="The gateway's own concierge: health, who you are, why you were refused.",
    )
