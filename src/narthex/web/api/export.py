"""Sends a thread as a download, as JSON or as Markdown for people, while it is read from the store.

Not here: reading the thread (`app/exports.py`). Rules: memory holds one page of messages and one chunk, for a thread
of any length; a client that takes no bytes for `STALL_S` is dropped, which frees its slot.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from narthex.app.thread_view import EndedBetween, EndedRun, ThreadView
from narthex.domain.runs import RunState
from narthex.ports.edge import ABORT
from narthex.ports.threads import Message
from narthex.protocol.replies import encode_json

STALL_S: Final = 20.0  # for one chunk: 1.6 KB/s, which the slowest mobile connection has
CHUNK_BYTES: Final = 32 * 1024

_TITLES = {"user": "", "assistant": "", "reasoning": "thought", "tool": "tool"}
_NO_MESSAGES: Final = b'"messages":[]'
_NO_OUTCOMES: Final = b'"outcomes":[]'


class Download(Response):
    """A streamed answer with a bound on how long its client may take no bytes.

    Args:
        parts: its content.
        media_type: of the content.
        headers: more headers.
        on_end: called once, on every way out.
        stall_s: see `STALL_S`.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        *,
        media_type: str,
        headers: dict[str, str],
        on_end: Callable[[], None],
        stall_s: float = STALL_S,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._parts = parts
        self._on_end = on_end
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; it ends early when the client leaves or takes no bytes."""
        extension = (scope.get("extensions") or {}).get(ABORT)
        left = asyncio.ensure_future(_left(receive))
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async for chunk in _chunks(self._parts):
                async with asyncio.timeout(self._stall_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if left.done():
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            if extension is None:
                raise  # a server other than our edge handles it
            extension["abort"]()
        finally:
            left.cancel()
            self._on_end()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chunks(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The parts, joined or cut to about `CHUNK_BYTES`."""
    waiting = bytearray()
    async for part in parts:
        waiting += part
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)


async def as_json(
    view: ThreadView, pages: AsyncIterator[list[Message]], ended: EndedBetween
) -> AsyncIterator[bytes]:
    """The thread as `thread.get` shows it, with all its messages and outcomes. `view` has none."""
    before, found, rest = encode_json(view).partition(_NO_MESSAGES)
    between, found_too, after = rest.partition(_NO_OUTCOMES)
    assert found and found_too, "a view without messages and outcomes"
    yield before + b'"messages":['
    comma, ends = b"", [0.0]
    async for page in pages:
        ends.append(_end(page, ends[-1]))
        for message in page:
            yield comma + encode_json(message)
            comma = b","
    yield b"]" + between + b'"outcomes":['
    comma = b""
    for since, until in zip(ends, [*ends[1:], None], strict=True):
        for run in await ended(since, until) if since != until else ():
            yield comma + encode_json(run)
            comma = b","
    yield b"]" + after


async def as_markdown(
    view: ThreadView, pages: AsyncIterator[list[Message]], ended: EndedBetween
) -> AsyncIterator[bytes]:
    """Title, members, every message with its author's name, tool and moment (UTC), and each run's failure or stop."""
    members = ", ".join(member.user_id for member in view.members)
    yield f"# {_line(view.thread.title)}\n\nMembers: {members}\n".encode()
    since = 0.0
    waiting: list[EndedRun] = []  # of the runs that began before `since`: those whose end is not written yet
    async for page in pages:
        until = _end(page, since)
        if until > since:
            waiting = _in_order(waiting, await ended(since, until))
        since = until
        for message in page:
            while waiting and _is_before(waiting[0], message):
                yield _ending(waiting.pop(0))
            yield f"\n## {_heading(message)} · {_moment(message.created_at)}\n\n{_body(message)}\n".encode()
    for run in _in_order(waiting, await ended(since, None)):
        yield _ending(run)


def _end(page: list[Message], since: float) -> float:
    """The latest moment so far; the order of messages is the log's, so that moments may go backwards."""
    return max(since, *(message.created_at for message in page))


def _in_order(waiting: list[EndedRun], more: list[EndedRun]) -> list[EndedRun]:
    """The runs among them that failed or were stopped, by the moment of their end."""
    chosen = (run for run in more if run.state in (RunState.FAILED, RunState.CANCELLED))
    return sorted([*waiting, *chosen], key=lambda run: run.finished_at)


def _is_before(run: EndedRun, message: Message) -> bool:
    return run.finished_at < message.created_at and run.run_id != message.run_id


def _ending(run: EndedRun) -> bytes:
    """The end of a run that failed or was stopped: the only trace in the thread of a run that wrote nothing."""
    if run.state == RunState.FAILED:
        note = "run failed"
        reason = _line(run.error_message)
        text = f"The run failed: {reason or run.error}" + (
            f" (`{run.error}`)" if reason and run.error else ""
        )
    else:
        note = "run stopped"
        by = f" by {_line(run.cancel_requested_by)}" if run.cancel_requested_by else ""
        text = f"The run was stopped{by}{'' if run.started_at else ' before it began'}."
    return f"\n## {_line(run.agent) or 'Agent'} ({note}) · {_moment(run.finished_at)}\n\n{text}\n".encode()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _heading(message: Message) -> str:
    """The author (a person by name and id, an agent by its name) and the message's kind, unless it is plain text."""
    detail = _detail(message)
    if message.role == "user":
        name = _line(str(detail.get("name") or ""))
        return (
            f"{name} ({_line(message.author)})" if name not in ("", message.author) else _line(message.author)
        )
    kind = _TITLES.get(message.role, message.role)
    tool = _line(str(detail.get("toolCallName") or ""))
    note = f" ({kind} {tool})" if tool else f" ({kind})" if kind else ""
    return _line(message.author) + note


def _body(message: Message) -> str:
    """The text; of a tool call its arguments and its result, of an activity its content as JSON."""
    if message.role == "activity":
        return _fenced(msgspec.json.encode(_detail(message).get("content")).decode())
    if message.role != "tool":
        return message.content
    detail = _detail(message)
    given = str(detail.get("args") or "")
    parts = [f"Given:\n\n{_fenced(given)}"] if given.strip() not in ("", "{}") else []
    returned = (
        _fenced(message.content) if message.content else "nothing" if detail.get("answered") else "no answer"
    )
    return "\n\n".join([*parts, f"Returned:\n\n{returned}"])


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any in `text`."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _detail(message: Message) -> dict[str, object]:
    try:
        return msgspec.json.decode(message.detail, type=dict[str, object])
    except msgspec.DecodeError:  # a row of another program's
        return {}


def _line(text: str) -> str:
    return " ".join(text.split())
