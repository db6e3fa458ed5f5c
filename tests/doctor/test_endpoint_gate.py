"""The gate of an application's endpoint, at `narthex.Guard` and at `narthex guard` before a Node server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.doctor.canary import one_round
from narthex.doctor.diagnosis import diagnose
from narthex.doctor.endpoint_gate import examine_endpoint
from narthex.doctor.examination import ExaminationOptions, examine
from narthex.doctor.gate import GateOptions, GateReport, examine_gate
from narthex.doctor.target import parse_target
from tests.doctor.meddler import meddling, replaced, without
from tests.guard.cores import token
from tests.guard.process import NodeServer, guarding, node_server
from tests.guard.servers import free_port, serving
from tests.timing import within

pytestmark = pytest.mark.acceptance
KEY = "an-end-to-end-key-of-32-characters"


async def gated(url: str, **options: Any) -> GateReport:
    """The gate's report, with a token and a short hold unless told otherwise."""
    given = {"token": token(), "timeout_s": within(3), "hold_s": 0.4, **options}
    return await examine_endpoint(parse_target(url), msgspec.convert(given, GateOptions))


def failed(report: GateReport) -> dict[str, str]:
    """The checks that failed, with what was observed."""
    return {check.name: check.detail for check in report.checks if not check.ok}


@pytest.fixture
def node() -> Iterator[NodeServer]:
    """A Node server that says what it was asked first, and then echoes."""
    with node_server() as server:
        yield server


async def test_a_guarded_application(tmp_path: Path) -> None:
    """Every check passes; each fault on the way and each wrong expectation shuts the gate by its name."""
    async with serving("uvicorn-websockets", "fastapi", tmp_path) as server:
        report = await gated(server.url, send="hello", expect="hello")
        assert report.ok, failed(report)
        assert [check.name for check in report.checks][-2:] == ["exchange", "hold"]
        assert set(report.figures) == {"handshake_ms", "pong_ms", "exchange_ms"}
        assert failed(await gated(server.url, send="hello", expect="bye")).keys() == {"exchange"}
        assert failed(await gated(server.url, expect_bypass=True)).keys() == {"auth_bypass_active"}
        unknown = failed(await gated(server.url, token=token(secret="x" * 40)))
        assert {"admitted with the token", "hold"} <= unknown.keys()
        async with meddling(server.port, request=without("Origin")) as port:
            assert "foreign Origin refused" in failed(await gated(f"ws://127.0.0.1:{port}/ws"))
        async with meddling(server.port, response=replaced(b" 401 ", b" 500 ")) as port:
            shut = failed(await gated(f"ws://127.0.0.1:{port}/ws"))
            assert {"refused without a token", "bad token refused"} <= shut.keys()
        nothing = failed(await gated(f"ws://127.0.0.1:{free_port()}/ws"))
        assert "narthex doctor finds the cause" in nothing["reachable"]


NESTED = """
import narthex
from fastapi import FastAPI, WebSocket

api = FastAPI()

@api.websocket("/chat/ws")
async def chat(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)

default = narthex.Guard(api, paths=["/chat/ws"])
moved = narthex.Guard(api, paths=["/chat/ws"], prefix="/chat")
elsewhere = narthex.Guard(api, paths=["/chat/ws"], prefix="/guards/own")
"""


@pytest.mark.parametrize("name", ["default", "moved", "elsewhere"])
async def test_the_guards_routes_are_found(tmp_path: Path, name: str) -> None:
    """At the root, below a directory of the endpoint; elsewhere the gate says which option names their place."""
    (tmp_path / "nested.py").write_text(NESTED)
    environ = {"PYTHONPATH": str(tmp_path)}
    async with serving("uvicorn-websockets", "", tmp_path, environ, app=f"nested:{name}") as server:
        url = f"ws://127.0.0.1:{server.port}/chat/ws"
        report = await gated(url)
        if name == "elsewhere":
            assert "Give --prefix" in failed(report)["health"]
            report = await gated(url, prefix="/guards/own")
        assert report.ok, failed(report)


async def test_a_token_that_ends_while_sockets_are_held(tmp_path: Path) -> None:
    """The hold reports the close code and the age."""
    async with serving("uvicorn-websockets", "starlette", tmp_path, {"NARTHEX_TOKEN_GRACE_S": "0"}) as server:
        shut = failed(await gated(server.url, token=token(ttl_s=within(3)), hold_s=within(6)))
        assert shut.keys() == {"hold"}
        assert "3005" in shut["hold"]


async def test_a_server_that_carries_no_refusals(tmp_path: Path) -> None:
    """Daphne answers a bare 403; preflight gives the code."""
    async with serving("daphne", "channels", tmp_path) as server:
        report = await gated(server.url, send="hello", expect="hello")
        assert report.ok, failed(report)
        details = {check.name: check.detail for check in report.checks}
        assert details["foreign Origin refused"] == "HTTP 403 origin_not_allowed"
        assert details["bad token refused"] == "HTTP 403 token_malformed"


async def test_a_guard_process_before_a_node_server(tmp_path: Path, node: NodeServer) -> None:
    """By key, on any path, and with the commands themselves; a dead upstream shuts the gate."""
    env = {"E2E_OAUTH_SIMULATION_KEY": KEY, "E2E_TESTING": "1"}
    upstream = f"ws://127.0.0.1:{node.port}"
    async with guarding(tmp_path, upstream, env, "--path", "/ws", "/rooms/{room}") as guard:
        url = guard.ws.removesuffix("/ws") + "/rooms/7"
        headers = (("X-E2E-Bypass-Key", KEY), ("X-E2E-Test-Run", "gate-1"))
        report = await gated(url, token="", headers=headers, expect_bypass=True, expect='"url":"/rooms/7"')
        assert report.ok, failed(report)
        assert KEY not in str(report)
        given = ("gate", url, "--profile", "endpoint", "--expect-bypass", "true", "--hold", "500ms", "--json")
        sent = {"NARTHEX_TOKEN": token()}
        done = guard.run(*given, "--send", "hello", "--expect", "hello", "--save", "good.json", env=sent)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["ok"]
        done = guard.run(*given, "--send", "hello", "--against", "good.json", "--slower", "50", env=sent)
        assert done.returncode == 0, done.stdout
        assert [check["name"] for check in json.loads(done.stdout)["checks"]][-1] == "latency"
        for wrong in (("--send", "hello"), ("--profile", "endpoint", "--hold", "31s")):
            assert guard.run("gate", url, *wrong, env=sent).returncode == 2
        node.kill()
        shut = failed(await gated(url, expect_bypass=True))
        assert {"health", "admitted with the token"} <= shut.keys()


IN_BAND = """
import json
import narthex
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

async def endpoint(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)

def in_band(message):
    return json.loads(message)["token"], None

app = narthex.Guard(Starlette(routes=[WebSocketRoute("/ws", endpoint)]), paths=["/ws"], in_band=in_band)
"""


@pytest.fixture
async def in_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of an endpoint that takes its proof in the first message."""
    (tmp_path / "in_band_app.py").write_text(IN_BAND, encoding="utf-8")
    settings = {"PYTHONPATH": str(tmp_path), "NARTHEX_INBAND_TIMEOUT_S": "1"}
    async with serving(
        "uvicorn-websockets", "starlette", tmp_path, settings, app="in_band_app:app"
    ) as server:
        yield server.url


async def test_an_endpoint_that_takes_its_proof_in_the_first_message(in_band: str) -> None:
    """A socket without a credential is upgraded, gets nothing and is closed: that counts as refused."""
    report = await gated(in_band)
    assert report.ok, failed(report)
    assert "3502" in next(check.detail for check in report.checks if check.name == "refused without a token")


ELSEWHERE = """
import narthex
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

async def endpoint(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.close(4999, "told " + text)

app = narthex.Guard(Starlette(routes=[WebSocketRoute("/rooms/live", endpoint)]), paths=["/rooms/live"])
"""


async def test_a_guard_whose_endpoint_is_elsewhere(tmp_path: Path) -> None:
    """The doctor and the canary find the guard's routes at the root, and send nothing to the application; a server that
    never answers a large head costs little.
    """
    (tmp_path / "elsewhere_app.py").write_text(ELSEWHERE, encoding="utf-8")
    settings = {"PYTHONPATH": str(tmp_path)}
    async with serving(
        "uvicorn-websockets", "starlette", tmp_path, settings, app="elsewhere_app:app"
    ) as server:
        target = parse_target(f"ws://127.0.0.1:{server.port}/rooms/live")
        seen = await examine(target, ExaminationOptions(token=token(), timeout_s=within(5)))
        assert seen.gateway is not None
        assert seen.gateway.health["status"] == "healthy"
        assert seen.gateway.preflight["verdict"] == "admit"
        assert seen.steps == ()
        (large,) = (made for made in seen.exchanges if made.attempt.large)
        assert (large.end, large.waited_s < within(5)) == ("timeout", True)
        assert {finding.code for finding in diagnose(seen).findings} == {"large_head_silence"}
        done = await one_round(target, token=token(), timeout_s=within(5))
        assert [(step.name, step.ok) for step in done.steps] == [
            (name, True) for name in ("dns", "tcp", "health", "handshake")
        ]


async def test_the_profile_of_a_chat_and_the_doctor_at_a_guard(tmp_path: Path) -> None:
    """The gate names the other profile, and the doctor sends no chat command to the application."""
    async with serving("uvicorn-websockets", "fastapi", tmp_path) as server:
        options = GateOptions(token=token(), timeout_s=within(3))
        report = await examine_gate(parse_target(server.url), options)
        assert not report.ok
        assert "--profile endpoint" in failed(report)["profile"]
        seen = await examine(parse_target(server.url), ExaminationOptions(token=token(), hold_s=0.4))
        assert seen.steps == ()
        assert [held.ended for held in seen.holds] == ["held"] * 3
        assert not diagnose(seen).failed
