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
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import pytest
import pytest_asyncio

from narthex.adapters.agents.agui_http import agui_agent
from narthex.domain.digest import Digest
from narthex.domain.events import DELTA_ID
from narthex.testing import gateway
from tests.adapters.agents.serving import served
from tests.frameworks.client import Device
from tests.frameworks.model import model
from tests.timing import within

HOME = os.environ.get("AGUI_FRAMEWORKS", "")
SERVERS = Path(__file__).parent / "servers"
# The path of each framework's endpoint.
PATHS: Final = {
    "langgraph": "/agent",
    "langgraph-legacy": "/legacy",
    "pydantic": "/agent",
    "agno": "/agui",
    "llamaindex": "/run",
    "strands": "/agent",
    "adk": "/agent",
}
pytestmark = [
    pytest.mark.skipif(not HOME, reason="AGUI_FRAMEWORKS names no directory of virtual environments"),
    pytest.mark.soak,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(within(240)),
]


def page_tool(name: str, member: str, kind: dict[str, Any]) -> dict[str, Any]:
    """A tool that the page runs, with one parameter."""
    parameters = {"type": "object", "properties": {member: kind}, "required": [member]}
    return {"name": name, "description": f"The page's {name}.", "parameters": parameters}


LINES: Final = {"type": "array", "items": {"type": "string"}}
BACKGROUND: Final = page_tool("change_background", "colour", {"type": "string"})
PLAN: Final = page_tool("approve_plan", "steps", LINES)
HAIKU: Final = page_tool("show_haiku", "lines", LINES)
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
    framework = name.partition("-")[0]
    python = Path(HOME) / framework / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment {framework} in AGUI_FRAMEWORKS")
    process = await asyncio.create_subprocess_exec(
        python,
        SERVERS / f"{framework}_server.py",
        f"{model_url}/v1",
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
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

    found = [event for event in found if not str(event.get("name")).startswith("narthex.")]  # as of an answer
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
        for one in (kept.get("outcome") or {}).get("interrupts", []):  # the gateway names these in any case
            one.pop("expiresAt", None)
            if one.get("message") == one["reason"]:
                del one["message"]
            if one.get("responseSchema") == {}:
                del one["responseSchema"]
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
    """One framework's server, directly and behind a gateway, with a device on each side."""

    def __init__(
        self, http: httpx2.AsyncClient, name: str, direct: str, gateway_url: str, token: str
    ) -> None:
        self.name = name
        self._http = http
        self._urls = (direct, f"{gateway_url}/agui/{name}")
        self._token = token

    async def turn(
        self, devices: tuple[Device, Device], tools: list[Any], more: tuple[dict[str, Any], dict[str, Any]]
    ) -> tuple[list[Any], list[Any]]:
        """The events of each side; the gateway's are proved and carry the client's names."""
        bodies = [device.asks(tools, **one) for device, one in zip(devices, more, strict=True)]
        direct = await events(self._http, self._urls[0], bodies[0], "")
        through = await events(self._http, self._urls[1], bodies[1], self._token)
        assert proven(through)
        assert through[0]["threadId"] == bodies[1]["threadId"]
        assert through[0]["runId"] == bodies[1]["runId"]
        for device, found in zip(devices, (direct, through), strict=True):
            device.hears(opened(found))
        return direct, through


@pytest_asyncio.fixture(params=PATHS, scope="module", loop_scope="module")
async def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    """See `Pair`."""
    name = request.param
    async with served(model()) as model_url, started(name, model_url) as direct:
        agents = [agui_agent(direct, name=name)]
        async with (
            gateway(tmp_path_factory.mktemp(name), agents=agents) as running,
            httpx2.AsyncClient(trust_env=False, timeout=within(30)) as http,
        ):
            yield Pair(http, name, direct, running.http, running.token("ada"))


class Turn(NamedTuple):
    """What the user does: says a text, returns the result of the page's tool, or answers a question."""

    text: str = ""
    result: str = ""
    answer: Any = None


class Feature(NamedTuple):
    """One of the features of AG-UI's demo pages (the dojo): the turns, the page's tools, the frameworks' entries that
    offer it, and a type of event, or the name of a CUSTOM one, without which it did not take place.
    """

    turns: tuple[Turn, ...]
    offered_by: frozenset[str]
    sign: str
    tools: tuple[dict[str, Any], ...] = ()


EVERY: Final = frozenset(PATHS)
FEATURES: Final = {
    "agentic chat": Feature((Turn("hello"), Turn("hello")), EVERY, "TEXT_MESSAGE_CONTENT"),
    "backend tools": Feature((Turn("weather"), Turn("hello")), EVERY, "TOOL_CALL_START"),
    "front-end tools": Feature(
        (Turn("background"), Turn(result="red now")), EVERY, "TOOL_CALL_START", (BACKGROUND,)
    ),
    "human in the loop": Feature((Turn("plan"), Turn(result="approved")), EVERY, "TOOL_CALL_START", (PLAN,)),
    "tool-based generative UI": Feature(
        (Turn("haiku"), Turn(result="shown")), EVERY, "TOOL_CALL_START", (HAIKU,)
    ),
    "agentic generative UI": Feature((Turn("work"), Turn("hello")), EVERY, "STATE_"),
    "shared state": Feature((Turn("milk"), Turn("milk")), EVERY, "STATE_"),
    "predictive state": Feature(
        (Turn("write"),),
        frozenset({"langgraph", "langgraph-legacy", "pydantic", "strands", "adk"}),
        "PredictState",
    ),
    "sub-graphs": Feature(
        (Turn("research"), Turn("hello")), frozenset({"langgraph", "langgraph-legacy"}), "STEP_STARTED"
    ),
    "interrupts": Feature(
        (Turn("delete"), Turn(answer=True)),
        frozenset({"langgraph", "langgraph-legacy", "pydantic", "strands", "adk"}),
        "interrupt",
    ),
}


@pytest.mark.parametrize("feature", FEATURES)
async def test_each_feature_is_the_same_through_narthex(pair: Pair, feature: str) -> None:
    """The same events in each turn, as a stock client makes them: with its messages, its state and its answers."""
    asked = FEATURES[feature]
    if pair.name not in asked.offered_by:
        pytest.skip(f"the server of {pair.name} here has no such feature: docs/ag-ui.md")
    devices = (Device("d"), Device("n"))
    signs: set[str] = set()
    for number, turn in enumerate(asked.turns):
        more: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for device, one in zip(devices, more, strict=True):
            if turn.text:
                device.says(turn.text)
            elif turn.result:
                device.returns(turn.result)
            else:
                one.update(answered(device, turn.answer, pair.name))
        direct, through = await pair.turn(devices, list(asked.tools), more)
        threads = (devices[0].thread_id,)
        assert seen(through) == normal(direct, threads=threads), f"{pair.name}: {feature}, turn {number + 1}"
        signs |= {event["type"] for event in opened(direct)} | {event.get("name", "") for event in direct}
        signs |= {str((event.get("outcome") or {}).get("type")) for event in direct if "outcome" in event}
    assert any(asked.sign in sign for sign in signs), signs


def answered(device: Device, answer: Any, framework: str) -> dict[str, Any]:
    """The part of a request that answers the device's questions, in the form in which they were asked."""
    if not device.interrupts:  # LangGraph's older form
        return {"forwardedProps": {"command": {"resume": json.dumps(answer)}}}
    payload = {"confirmed" if framework == "adk" else "approved": answer}
    return {
        "resume": [
            {"interruptId": one["id"], "status": "resolved", "payload": payload} for one in device.interrupts
        ]
    }


async def test_usage_is_what_the_server_reported(pair: Pair) -> None:
    """The entries of RUN_FINISHED, unchanged; none where the server reports none."""
    devices = (Device("d"), Device("n"))
    for device in devices:
        device.says("hello")
    direct, through = await pair.turn(devices, [], ({}, {}))
    assert through[-1].get("usage") == direct[-1].get("usage")
