"""Official AG-UI servers of six frameworks, seen directly and through narthex: the same events, but for merged deltas
and the gateway's own members.

Opt-in: AGUI_FRAMEWORKS names a directory with one virtual environment for each (docs/ag-ui.md says which packages).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from narthex.adapters.agents.agui_http import agui_agent
from narthex.domain.digest import Digest
from narthex.domain.events import DELTA_ID
from narthex.testing import gateway
from tests.adapters.agents.serving import served
from tests.frameworks.model import model
from tests.timing import within

HOME = os.environ.get("AGUI_FRAMEWORKS", "")
SERVERS = Path(__file__).parent / "servers"
# The path of each framework's endpoint.
PATHS: Final = {
    "langgraph": "/agent",
    "pydantic": "/agent",
    "agno": "/agui",
    "llamaindex": "/run",
    "strands": "/agent",
    "adk": "/agent",
}
pytestmark = [
    pytest.mark.skipif(not HOME, reason="AGUI_FRAMEWORKS names no directory of virtual environments"),
    pytest.mark.soak,
    pytest.mark.timeout(within(240)),
]

BACKGROUND: Final = {
    "name": "change_background",
    "description": "Changes the page's colour.",
    "parameters": {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]},
}
IDS: Final = ("messageId", "toolCallId", "parentMessageId", "entityId", "stepName")
GATEWAY: Final = {
    "threadId",
    "runId",
    "timestamp",
    "metadata",
    "rawEvent",
    "input",
    "protocolVersion",
    "parentRunId",
}


@contextlib.asynccontextmanager
async def started(name: str, model_url: str) -> AsyncIterator[str]:
    """The framework's server in its own environment; gives the endpoint's URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    python = Path(HOME) / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment {name} in AGUI_FRAMEWORKS")
    process = await asyncio.create_subprocess_exec(
        python, SERVERS / f"{name}_server.py", f"{model_url}/v1", str(port), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(within(100)):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, f"the server of {name} ended"
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}{PATHS[name]}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def asked(thread: str, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A RunAgentInput of a stock client."""
    sent = {"threadId": thread, "runId": str(uuid.uuid4()), "state": {}, "messages": messages}
    return sent | {"tools": [], "context": [], "forwardedProps": {}} | more


def user(text: str) -> dict[str, Any]:
    """A user's message."""
    return {"id": str(uuid.uuid4()), "role": "user", "content": text}


async def events(
    http: httpx2.AsyncClient, url: str, body: dict[str, Any], token: str
) -> list[dict[str, Any]]:
    """One run's events."""
    headers = {"Accept": "text/event-stream"} | ({"Authorization": f"Bearer {token}"} if token else {})
    response = await http.post(url, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]


UUID: Final = re.compile("[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
CHUNKS: Final = {"TEXT_MESSAGE": ("messageId", "CONTENT"), "TOOL_CALL": ("toolCallId", "ARGS")}


def opened(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`*_CHUNK` events as start, content and end, as AG-UI's client opens them."""
    out: list[dict[str, Any]] = []
    current = ("", "")

    def close() -> None:
        nonlocal current
        if current[0]:
            out.append({"type": f"{current[0]}_END", CHUNKS[current[0]][0]: current[1]})
        current = ("", "")

    for event in found:
        kind = event["type"].removesuffix("_CHUNK")
        if kind not in CHUNKS or not event["type"].endswith("_CHUNK"):
            if event["type"] not in {"RAW", "CUSTOM"} and not event["type"].startswith(("STATE_", "STEP_")):
                close()
            out.append(event)
            continue
        member, content = CHUNKS[kind]
        name = event.get(member) or current[1]
        if current != (kind, name):
            close()
            opening = {key: value for key, value in event.items() if key != "delta"}
            out.append(opening | {"type": f"{kind}_START"})
            current = (kind, name)
        if event.get("delta"):
            out.append({"type": f"{kind}_{content}", member: name, "delta": event["delta"]})
    close()
    return out


def normal(found: list[dict[str, Any]], own: str = "", threads: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Adjacent deltas joined, chunks opened, random ids numbered, the gateway's members left out."""
    numbers: dict[str, str] = {}

    def numbered(name: object) -> object:
        if not isinstance(name, str) or not name:
            return name
        name = name.removeprefix(f"{own}.")
        return numbers.setdefault(name, f"#{len(numbers)}")

    plain = [{name: value for name, value in event.items() if name not in GATEWAY} for event in opened(found)]
    text = json.dumps(plain)
    for thread in threads:  # an agent may name it, and narthex names it by its own id
        text = text.replace(thread, "#thread")
    uuids: dict[str, str] = {}
    found = json.loads(UUID.sub(lambda match: uuids.setdefault(match[0], f"#uuid{len(uuids)}"), text))
    out: list[dict[str, Any]] = []
    for event in found:
        kept = {name: value for name, value in event.items() if name not in GATEWAY and value is not None}
        kind = kept["type"]
        for member in IDS[:-1]:
            if member in kept:
                kept[member] = numbered(kept[member])
        if kind in DELTA_ID and not kept["delta"]:
            continue
        if kind in DELTA_ID and out and out[-1] | {"delta": ""} == kept | {"delta": ""}:
            out[-1]["delta"] += kept["delta"]
            continue
        if kind == "RAW":  # the framework's own ids and times
            kept = {"type": kind, "event": kept["event"].get("event"), "name": kept["event"].get("name")}
        if kind == "MESSAGES_SNAPSHOT":
            kept["messages"] = [
                {"role": one["role"], "content": one.get("content") or "", "id": numbered(one.get("id"))}
                for one in kept["messages"]
            ]
        if kind in {"RUN_FINISHED", "RUN_ERROR"} and kept.get("outcome") in ({"type": "success"}, None):
            kept.pop("outcome", None)  # the gateway always names it
        out.append(kept)
    return out


def seen(through: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`normal` for the gateway's events."""
    ids = through[0]["metadata"]["narthex"]
    return normal(through, ids["runId"], (ids["threadId"], through[0]["threadId"]))


def proven(found: list[dict[str, Any]]) -> bool:
    """Whether the gateway's digest holds."""
    ids = found[0]["metadata"]["narthex"]
    digest = Digest()
    for event in found:
        ours = {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"}
        kept = {n: v for n, v in event.items() if n != "metadata" or event["type"] not in ours}
        digest.feed(
            kept | (ids if event["type"] == "RUN_STARTED" else {n: ids[n] for n in ("threadId", "runId")})
        )
    return bool(found[-1]["metadata"]["narthex"]["digest"] == digest.value())


class Pair:
    """One framework's server, directly and behind a gateway."""

    def __init__(
        self, http: httpx2.AsyncClient, name: str, direct: str, gateway_url: str, token: str
    ) -> None:
        self.name = name
        self._http = http
        self._urls = (direct, f"{gateway_url}/agui/{name}")
        self._token = token

    async def both(self, bodies: tuple[dict[str, Any], dict[str, Any]]) -> tuple[list[Any], list[Any]]:
        """The events of each side; the gateway's are proved and carry the client's names."""
        direct = await events(self._http, self._urls[0], bodies[0], "")
        through = await events(self._http, self._urls[1], bodies[1], self._token)
        assert proven(through)
        assert through[0]["threadId"] == bodies[1]["threadId"]
        assert through[0]["runId"] == bodies[1]["runId"]
        return direct, through


@pytest.fixture(params=PATHS)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """See `Pair`."""
    name = request.param
    async with served(model()) as model_url, started(name, model_url) as direct:
        agents = [agui_agent(direct, name=name)]
        async with (
            gateway(tmp_path, agents=agents) as running,
            httpx2.AsyncClient(trust_env=False, timeout=within(30)) as http,
        ):
            yield Pair(http, name, direct, running.http, running.token("ada"))


FEATURES: Final = {
    "agentic chat": ("hello", []),
    "backend tools": ("weather", []),
    "front-end tools": ("background", [BACKGROUND]),
}


async def test_each_feature_is_the_same_through_narthex(pair: Pair) -> None:
    """Chat, the server's tools, the client's tools with their result in the next run, and a second turn."""
    for feature, (text, tools) in FEATURES.items():
        threads = (f"d-{uuid.uuid4()}", f"n-{uuid.uuid4()}")
        first = user(text)
        bodies = tuple(asked(thread, [first], tools=tools) for thread in threads)
        direct, through = await pair.both((bodies[0], bodies[1]))
        assert seen(through) == normal(direct, threads=(threads[0],)), f"{pair.name}: {feature}"
        calls = [(event["toolCallId"], event) for event in direct if event["type"] == "TOOL_CALL_START"]
        if feature == "front-end tools" and calls:
            said = []
            for side in (direct, through):
                call_id = next(event["toolCallId"] for event in side if event["type"] == "TOOL_CALL_START")
                function = {"name": "change_background", "arguments": '{"colour": "red"}'}
                call = {"id": call_id, "type": "function", "function": function}
                result = {
                    "id": str(uuid.uuid4()),
                    "role": "tool",
                    "toolCallId": call_id,
                    "content": "red now",
                }
                said.append(
                    [first, {"id": str(uuid.uuid4()), "role": "assistant", "toolCalls": [call]}, result]
                )
            direct, through = await pair.both(
                (asked(threads[0], said[0], tools=tools), asked(threads[1], said[1], tools=tools))
            )
            expected = normal(direct, threads=(threads[0],))
            assert seen(through) == expected, f"{pair.name}: result of a front-end tool"


async def test_usage_is_what_the_server_reported(pair: Pair) -> None:
    """The entries of RUN_FINISHED, unchanged; none where the server reports none."""
    direct, through = await pair.both((asked("u-d", [user("hello")]), asked("u-n", [user("hello")])))
    assert through[-1].get("usage") == direct[-1].get("usage")
