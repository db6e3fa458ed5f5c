"""Traces of the real program, taken by a real collector: one trace over gateway and worker, refusals, faults,
secrets.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus

from tests.acceptance.fleet import fleet
from tests.acceptance.program import Program, running
from tests.acceptance.sdk import person
from tests.acceptance.test_canaries import CANARIES, ENVIRON, assert_clean, plant
from tests.acceptance.traced_agents import ANSWER, ARGUMENTS, RESULT
from tests.guard.process import client as guarded
from tests.guard.process import guarding
from tests.otlp import Collector, SeenSpan, collector, waterfall
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

ROOT: Final = Path(__file__).parents[2]
AGENTS: Final = "tests.acceptance.traced_agents"
ENV: Final = {
    "NARTHEX_AGENT": f"{AGENTS}:weather,{AGENTS}:doubter",
    "PYTHONPATH": str(ROOT),
    "NARTHEX_LOG_LEVEL": "debug",
    "NARTHEX_LOG_FORMAT": "json",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
}


def traced(to: Collector, **more: str) -> dict[str, str]:
    """The environment of a traced program."""
    return ENV | {"OTEL_EXPORTER_OTLP_ENDPOINT": to.url} | more


def records(log: str, **members: object) -> list[dict[str, Any]]:
    """The JSON records of a log that have these members."""
    found = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [one for one in found if all(one.get(name) == value for name, value in members.items())]


async def chat(program: Program, token: str, agent: str = "weather", **headers: str) -> str:
    """One message and its answer; returns the run's id."""
    async with person(program.ws, token, headers=headers) as ada:
        thread_id = (await ada.rpc("thread.create"))["thread_id"]
        await ada.follow(thread_id)
        run = await ada.start("go", thread_id, agent=agent)
        assert (await ada.finished(thread_id, run["run_id"]))["type"] == "RUN_FINISHED"
        return str(run["run_id"])


async def test_one_trace_goes_from_the_handshake_over_the_worker_to_the_tool(tmp_path: Path) -> None:
    """Handshake and command in the gateway, run, agent, tool and publish in the worker: one trace, each below its
    cause, and the logs of both processes name it.
    """
    with collector() as seen:
        async with fleet(tmp_path, **traced(seen)) as processes:
            gateway, worker = await asyncio.gather(
                processes.gateway("--no-agents", OTEL_SERVICE_NAME="gateway"),
                processes.worker(OTEL_RESOURCE_ATTRIBUTES="service.name=worker,team=chat"),
            )
            run_id = await chat(gateway, await gateway.login("ada@example.com"))
            spans = await asyncio.to_thread(
                seen.until, lambda all_: {"run", "rpc run.start", "deliver"} <= {s.name for s in all_}
            )
            gateway_log, worker_log = gateway.log, worker.log
    [run] = [span for span in spans if span.name == "run"]
    trace = [span for span in spans if span.trace_id == run.trace_id]
    by_name = {span.name: span for span in trace}
    picture = waterfall(trace)
    print(picture)
    assert tree(picture) == tree(
        (ROOT / "docs/tracing.md").read_text().partition("```text\n")[2].partition("```")[0]
    )
    assert run.attributes["narthex.run_id"] == run_id
    assert _path(trace, by_name["execute_tool forecast"]) == [
        *("handshake", "rpc run.start", "run", "invoke_agent weather", "execute_tool forecast"),
    ]
    assert _path(trace, by_name["read the sky"])[-2:] == ["invoke_agent weather", "read the sky"]
    assert {by_name[name].kind for name in ("handshake", "rpc run.start")} == {"server"}
    assert by_name["handshake"].resource["service.name"] == "gateway"
    assert (run.resource["service.name"], run.resource["team"]) == ("worker", "chat")
    published = {
        s.attributes["narthex.event"] for s in trace if s.name == "publish" and s.parent_id == run.span_id
    }
    assert {"RUN_STARTED", "TOOL_CALL_START", "TOOL_CALL_RESULT", "RUN_FINISHED"} <= published
    tool = by_name["execute_tool forecast"].attributes
    assert (tool["gen_ai.operation.name"], tool["gen_ai.tool.name"]) == ("execute_tool", "forecast")
    assert all(span.began <= span.ended for span in trace)
    [decision] = records(gateway_log, event="handshake", outcome="admitted", trace_id=run.trace_id)
    assert decision["span_id"] == by_name["handshake"].span_id
    [ended] = records(worker_log, event="run_ended")
    assert (ended["trace_id"], ended["span_id"]) == (run.trace_id, run.span_id)


def tree(picture: str) -> set[str]:
    """The lines of a waterfall without their bars, each once: how long things take differs."""
    return {line.lstrip(" █") + str(len(line) - len(line.lstrip(" █"))) for line in picture.splitlines()}


async def test_a_refusal_s_trace_id_finds_its_log_line_and_its_trace(tmp_path: Path) -> None:
    """Even where one trace in a hundred is recorded; and a client's own trace id is kept."""
    sampled = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.0001"}
    with collector() as seen:
        async with running(tmp_path, traced(seen, **sampled)) as program:
            own = secrets.token_hex(16)
            refused = [await refusal(program), await refusal(program, traceparent=f"00-{own}-{'1' * 16}-00")]
            spans = await asyncio.to_thread(seen.until, lambda all_: len(all_) >= 2)
            log = program.log
    assert refused[1]["trace_id"] == own
    for body in refused:
        [record] = records(log, event="handshake", trace_id=body["trace_id"])
        [span] = [one for one in spans if one.trace_id == body["trace_id"]]
        assert (
            record["code"] == span.attributes["narthex.handshake.code"] == body["code"] == "token_malformed"
        )
        assert record["span_id"] == span.span_id
        assert span.attributes["http.response.status_code"] == 401
        assert span.attributes["narthex.handshake.carriers"] == ["authorization"]
        assert not span.error  # the client's fault, by OpenTelemetry's conventions for servers


async def refusal(program: Program, **headers: str) -> dict[str, Any]:
    """The body with which a bad token is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(
            program.ws, additional_headers={"Authorization": "Bearer nonsense", **headers}, proxy=None
        ):
            pass
    assert caught.value.response.body is not None
    return dict(json.loads(caught.value.response.body))


async def test_a_client_names_its_trace_and_an_agent_elsewhere_continues_it(tmp_path: Path) -> None:
    """By header of the upgrade, by header of `connect`, and by AG-UI's forwardedProps; over HTTP to another gateway."""
    header, connect_header, forwarded, params = (secrets.token_hex(16) for _ in range(4))

    def parent(trace_id: str) -> dict[str, str]:
        return {"traceparent": f"00-{trace_id}-{'a' * 16}-01", "tracestate": "vendor=kept"}

    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    with collector() as seen:
        async with running(tmp_path / "far", traced(seen, OTEL_SERVICE_NAME="far")) as far:
            token = await far.login("robot@example.com")
            near_env = traced(
                seen,
                OTEL_SERVICE_NAME="near",
                NARTHEX_AGENT=f"remote=agui+{far.http}/agui/weather",
                NARTHEX_AGENT_SECRETS=f"remote={token}",
            )
            async with running(tmp_path / "near", near_env) as near:
                own = await near.login("ada@example.com")
                await chat(near, own, "remote", **parent(header))
                await raw_chat(near, own, headers=parent(connect_header))
                await raw_chat(near, own, forwarded=parent(params))
                body = {
                    "threadId": "t",
                    "runId": "r",
                    "messages": [{"id": "m", "role": "user", "content": "go"}],
                    "forwardedProps": parent(forwarded),
                }
                answer = await near.post(
                    "/agui/remote", json=body, headers={"Authorization": f"Bearer {own}"}
                )
                assert "RUN_FINISHED" in answer.text
                spans = await asyncio.to_thread(
                    seen.until, lambda all_: sum(span.name == "run" for span in all_) >= 8
                )  # four here, four there; a run's span is the last of its trace in its process
    for trace_id, first in (
        (header, "handshake"),
        (connect_header, "connect"),
        (forwarded, "agui"),
        (params, "run.start"),
    ):
        trace = [span for span in spans if span.trace_id == trace_id]
        [root] = [span for span in trace if span.parent_id == "a" * 16]
        assert (root.name, root.resource["service.name"], root.state) == (first, "near", "vendor=kept")
        assert bool(root.links) == (first != "handshake")
        [tool] = [span for span in trace if span.name == "execute_tool forecast" and _far(span)]
        path = _path(trace, tool)
        assert path[0] == first
        assert path[path.index("run") :] == [
            *("run", "invoke_agent remote", "POST", "handshake", "agui", "run", "invoke_agent weather"),
            "execute_tool forecast",
        ]
        [run] = [span for span in trace if span.name == "run" and not _far(span)]
        followed = (
            {"delivery"} if trace_id == header else set()
        )  # the others did not subscribe before it began
        assert {event.name for event in run.events} >= {"first delta", *followed}


def _far(span: SeenSpan) -> bool:
    return bool(span.resource["service.name"] == "far")


async def raw_chat(
    program: Program,
    token: str,
    *,
    headers: dict[str, str] | None = None,
    forwarded: dict[str, str] | None = None,
) -> None:
    """A run whose client names its trace in `connect`, as an SDK in a browser does, or in `run.start`."""
    bearer = {"Authorization": f"Bearer {token}"}
    async with connect(program.ws, additional_headers=bearer, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"headers": headers or {}}}))
        start = {"text": "go", "client_message_id": secrets.token_hex(8), "forwarded": forwarded or {}}
        await socket.send(json.dumps({"id": 2, "rpc": {"method": "run.start", "data": start}}))
        async with asyncio.timeout(within(20)):
            async for message in socket:
                if "narthex.run_ended" in str(message):
                    return
                if message == "{}":
                    await socket.send("{}")


async def test_the_server_behind_a_guard_continues_the_trace(tmp_path: Path) -> None:
    """It gets the position of the guard's handshake instead of the client's own, and `Narthex-Trace-Id` is the same."""
    heads: list[Headers] = []

    async def upstream(socket: ServerConnection) -> None:
        assert socket.request is not None
        heads.append(socket.request.headers)

    with collector() as seen:
        async with serve(upstream, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with guarding(tmp_path, url, traced(seen)) as guard:
                own = secrets.token_hex(16)
                headers = {"traceparent": f"00-{own}-{'a' * 16}-00", "tracestate": "vendor=kept"}
                async with guarded(guard, headers=headers) as socket:
                    await socket.wait_closed()
                [span] = await asyncio.to_thread(
                    seen.until, lambda all_: [s for s in all_ if s.trace_id == own]
                )
    [head] = heads
    assert head.get_all("traceparent") == [f"00-{own}-{span.span_id}-01"]
    assert head["tracestate"] == "vendor=kept"
    assert head["narthex-trace-id"] == own
    assert (span.name, span.parent_id) == ("handshake", "a" * 16)


async def test_without_the_extra_the_variable_is_a_configuration_error(tmp_path: Path) -> None:
    """Exit 78, with the command that installs it, from every process that would trace; without the variable it
    starts.
    """
    shadow = tmp_path / "shadow" / "opentelemetry"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("")  # hides the installed packages
    env = {"PYTHONPATH": str(shadow.parent), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    program = Program(tmp_path, env)
    for words in (("serve",), ("check",), ("guard", "--upstream", "http://127.0.0.1:1")):
        done = await asyncio.to_thread(program.run, *words)
        assert done.returncode == 78, (words, done.stdout, done.stderr)
        assert "pip install 'narthex[otel]'" in done.stderr + done.stdout
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr + done.stdout
    done = await asyncio.to_thread(program.run, "check", env={"PYTHONPATH": str(shadow.parent)})
    assert done.returncode == 0, done.stdout + done.stderr


async def test_no_secret_is_in_any_span(tmp_path: Path) -> None:
    """Canaries in every carrier and route, in a tool's arguments and result, in messages and in the exporter's
    headers.
    """
    with collector() as seen:
        header = "hdr-Live-Key-2Bq8Xs4Vt6Nc"
        env = traced(seen, OTEL_EXPORTER_OTLP_HEADERS=f"x-key={header}")
        async with running(tmp_path, ENVIRON | env) as program:
            await plant(program)
            issued = await program.login("grace@example.com")
            await chat(program, issued, tracestate=f"vendor={CANARIES[0]}")
            await asyncio.to_thread(seen.until, lambda all_: any(s.name == "run" for s in all_))
            await asyncio.to_thread(program.terminate)
            log = program.log
    assert len(seen.spans) > 30
    assert all(one["x-key"] == header for one in seen.headers)
    wire = "\n".join(body.decode("latin-1") for body in seen.bodies)
    assert_clean(wire, (*CANARIES, issued, ARGUMENTS[10:-2], RESULT, ANSWER, header))
    assert_clean(log, (header,))


async def test_a_collector_that_is_away_or_refuses_costs_spans_and_nothing_else(tmp_path: Path) -> None:
    """Chats work at their usual pace, what is lost is counted and said once, and the stop stays bounded."""
    with collector() as seen:
        seen.status = 400
        env = traced(seen, OTEL_BSP_MAX_QUEUE_SIZE="8", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4")
        async with running(tmp_path, env) as program:
            token = await program.login("ada@example.com")
            for _ in range(3):
                await chat(program, token)
            await until_lost(program)
            seen.delay_s = 60.0  # takes the request and never answers
            await chat(program, token)
            began = asyncio.get_running_loop().time()
            assert await asyncio.to_thread(program.terminate) == 0
            assert asyncio.get_running_loop().time() - began < 10
            assert program.log.count("spans_not_exported") == 1


async def until_lost(program: Program) -> None:
    """Wait until the log and `/metrics` say that spans were not exported."""
    async with asyncio.timeout(within(20)):
        while True:
            lines = (await program.get("/metrics")).text.splitlines()
            counted = [
                line for line in lines if line.startswith('narthex_trace_spans_total{result="failed"}')
            ]
            if counted and float(counted[0].rpartition(" ")[2]) and "spans_not_exported" in program.log:
                return
            await asyncio.sleep(0.05)


def _path(spans: list[SeenSpan], leaf: SeenSpan) -> list[str]:
    """The names of the spans from the root to `leaf`."""
    by_id = {span.span_id: span for span in spans}
    path = [leaf]
    while path[0].parent_id in by_id:
        path.insert(0, by_id[path[0].parent_id])
    return [span.name for span in path]
