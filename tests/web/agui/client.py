"""A stock client's requests, and its reading of a stream."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx2
from ag_ui.core import Event, RunAgentInput, UserMessage
from pydantic import TypeAdapter

from narthex.domain.digest import Digest
from narthex.testing import Running
from tests.timing import within

EVENT: TypeAdapter[Any] = TypeAdapter(Event)


def bearer(running: Running, subject: str = "ada", **identity: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.token(subject, **identity)}"}


def said(text: str, thread: str = "t-1", message: str = "", run: str = "", **more: Any) -> dict[str, Any]:
    """RunAgentInput as a stock client sends it."""
    asked = RunAgentInput(
        thread_id=thread,
        run_id=run or str(uuid.uuid4()),
        messages=[UserMessage(id=message or str(uuid.uuid4()), content=text)] if text else [],
        **{"state": {}, "tools": [], "context": [], "forwarded_props": {}} | more,
    )
    dumped: dict[str, Any] = asked.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def connecting(thread: str = "t-1", run: str = "", **wishes: Any) -> dict[str, Any]:
    """The body of a connect."""
    return (
        said("", thread, run=run) | {"forwardedProps": {"narthex": wishes}}
        if wishes
        else said("", thread, run=run)
    )


class Told:
    """A stream's ids and events, each checked by AG-UI's own models."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.events: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == "TEXT_MESSAGE_CONTENT")

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def block(self, block: str) -> None:
        """One server-sent event; comments are skipped."""
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":") and line)
        if fields:
            if "id" in fields:  # not in the middle of a snapshot
                self.ids.append(fields["id"])
            self.events.append(json.loads(fields["data"]))
            if self.events[-1]["type"] != "SOMETHING_NEW":
                EVENT.validate_python(self.events[-1])

    def is_whole(self) -> bool:
        """Nothing twice, in order, and the digest of the terminal event is right."""
        offsets = [int(name.partition("-")[0]) for name in self.ids]
        if offsets != sorted(set(offsets)):
            return False
        return proven(self.events)


def proven(events: list[dict[str, Any]]) -> bool:
    """Whether the digest holds, computed as docs/protocol.md says for AG-UI over HTTP."""
    digest = Digest()
    ids = events[0]["metadata"]["narthex"]
    names = {name: ids[name] for name in ("threadId", "runId")}
    for event in events:
        ours = {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"}
        kept = {n: v for n, v in event.items() if n != "metadata" or event["type"] not in ours}
        digest.feed(kept | (ids if event["type"] == "RUN_STARTED" else names))
    proof = events[-1]["metadata"]["narthex"]
    return bool(proof["digest"] == digest.value())


def real(told: Told, name: str = "runId") -> str:
    """The gateway's own id, which the stream tells beside the client's."""
    return str(told.events[0]["metadata"]["narthex"][name])


async def stream(response: httpx2.Response, told: Told, *, until: int = 1_000_000) -> Told:
    """Read a stream to its end, or to its `until`th event."""
    assert response.status_code == 200, await response.aread()
    assert response.headers["content-type"].startswith("text/event-stream")
    rest = ""
    async for text in response.aiter_text():
        *blocks, rest = (rest + text).split("\n\n")
        for block in blocks:
            told.block(block)
            if len(told.events) >= until:
                return told
    return told


async def until(holds: Callable[[], bool], units: float = 5) -> None:
    """Wait for a condition that has no event."""
    async with asyncio.timeout(within(units)):
        while not holds():  # noqa: ASYNC110 - the gateway's counts tell nobody when they change
            await asyncio.sleep(0.01)


async def ask(http: httpx2.AsyncClient, path: str, body: object, headers: dict[str, str]) -> Told:
    async with http.stream("POST", path, json=body, headers=headers) as response:
        return await stream(response, Told())
