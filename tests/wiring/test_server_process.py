"""The shell of every server process: a late engine, a wrong configuration, upgrades, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from narthex.adapters.edge.listeners import listen, url_of
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.health import CheckFailed, Degraded, ping_check
from narthex.app.lifecycle import Component, Lifecycle
from narthex.domain.descriptors import capacity
from narthex.errors import ConfigError, DependencyError
from narthex.settings import load
from narthex.wiring.server_process import (
    NoUpgrades,
    ServerProcess,
    edge_limits,
    make_edge,
    make_health,
    probe_pages,
)
from tests.adapters.edge.harness import upgrade
from tests.timing import within

log = get_logger("narthex.test")


class Engine:
    """A component that raises `fault` when it is opened, until that is None; notes what happens."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.tried = asyncio.Event()
        self.notes: list[str] = []

    async def open(self) -> None:
        self.tried.set()
        if self.fault is not None:
            raise self.fault
        self.notes.append("opened")

    async def close(self) -> None:
        self.notes.append("closed")

    async def ping(self) -> None:
        if self.fault is not None:
            raise self.fault


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (CheckFailed("a ticket was refused: draining"), None),
        (caused := CheckFailed("no handshake over loopback (OSError)"), OSError),
        (Degraded("not available: concierge"), None),
        (ValueError("a bug"), ValueError),
    ],
)
async def test_the_log_has_a_traceback_of_faults_that_the_sentence_does_not_explain(
    tmp_path: Path, fault: Exception, shown: type[Exception] | None
) -> None:
    """A check that failed by its own judgement says all there is to say in `detail`."""

    async def check() -> str:
        if fault is caused:
            raise fault from OSError("reset")
        raise fault

    settings = load({"port": 0, "data_dir": tmp_path}, {})
    lifecycle = Lifecycle([], grace_s=0.5, on_state=lambda _: None)
    meter = PrometheusMeter(version="1", environment="testing")
    health = make_health(settings, {"handshake": check}, lifecycle, meter, log)
    await lifecycle.start()
    with capture_logs() as lines:
        await health.report()
    await lifecycle.stop()
    [line] = [line for line in lines if line["event"] == "health"]
    assert line["log_level"] == "warning"
    assert (line["exc_info"] and type(line["exc_info"])) == shown


def made(
    directory: Path, engine: Engine, on_ready: Callable[[list[str]], None] = lambda _: None
) -> tuple[ServerProcess, str]:
    """A process over one engine, and its URL."""
    settings = load({"port": 0, "data_dir": directory, "drain_grace_s": 1.0}, {})
    meter = PrometheusMeter(version="1", environment="testing")
    lifecycle = Lifecycle(
        [Component("store", engine.open, engine.close)], grace_s=0.5, on_state=lambda _: None
    )
    health = make_health(settings, {"store": ping_check(engine.ping)}, lifecycle, meter, log)
    listeners = listen("127.0.0.1", 0)
    process = ServerProcess(
        Starlette(routes=probe_pages(settings, health, meter, lambda: {"runs": 3}).routes()),
        make_edge(
            settings,
            edge_limits(settings, capacity(settings.limits(), 1024)),
            NoUpgrades(log),
            HeadRules(allowed_host=lambda _: True, websocket_paths=frozenset()),
        ),
        lifecycle,
        listeners,
        grace_s=1.0,
        log=log,
        on_ready=on_ready,
        own_signals=False,
    )
    return process, url_of(*listeners[0].getsockname()[:2])


@asynccontextmanager
async def served(process: ServerProcess) -> AsyncIterator[asyncio.Task[bool]]:
    """The process's `serve`, ended afterwards."""
    serving = asyncio.create_task(process.serve())
    try:
        yield serving
    finally:
        process.stop()
        with suppress(ConfigError):
            await serving


async def answer(url: str) -> httpx2.Response:
    """Ask once the port takes connections."""
    async with httpx2.AsyncClient(trust_env=False, timeout=within(5)) as client:
        return await client.get(url)


async def test_a_late_engine_is_tried_until_it_answers(tmp_path: Path) -> None:
    """Meanwhile the port says `starting`; then it is ready, and the end closes what was opened."""
    engine, ready = Engine(DependencyError("store", "Cannot reach it.")), asyncio.Event()
    process, url = made(tmp_path, engine, lambda _urls: ready.set())
    async with served(process) as serving:
        await engine.tried.wait()
        late = await answer(f"{url}/readyz")
        assert (late.status_code, late.json()) == (503, {"status": "not ready", "reasons": ["starting"]})
        assert late.headers["retry-after"] == "2"
        assert (await answer(f"{url}/livez")).json() == {"status": "alive"}
        assert not ready.is_set()
        engine.fault = None
        async with asyncio.timeout(within(5)):
            await ready.wait()
        assert (await answer(f"{url}/readyz")).json() == {"status": "ready", "runs": 3}
        assert "narthex_health_status" in (await answer(f"{url}/metrics")).text
        process.stop()
        assert await serving
    assert engine.notes[-2:] == ["opened", "closed"]


async def test_an_engine_that_stops_answering_is_named(tmp_path: Path) -> None:
    """A ready process whose engine is away says 503 and which."""
    engine = Engine()
    process, _ = made(tmp_path, engine)
    async with process.running() as url:
        engine.fault = DependencyError("store", "Cannot reach it.")
        away = await answer(f"{url}/readyz")
        assert (away.status_code, away.json()["reasons"]) == (503, ["store"])
        engine.fault = None
    assert engine.notes == ["opened", "closed"]


@pytest.mark.parametrize("run", ["serve", "running"])
async def test_a_wrong_configuration_ends_the_process(tmp_path: Path, run: str) -> None:
    """No later try would succeed: it is raised, nothing is announced."""
    ready: list[list[str]] = []
    process, _ = made(tmp_path, Engine(ConfigError(["The key is wrong."])), ready.append)
    with pytest.raises(ConfigError, match="The key is wrong"):
        async with asyncio.timeout(within(5)):
            if run == "serve":
                await process.serve()
            else:
                async with process.running():
                    raise AssertionError("it is not running")
    assert ready == []


async def test_a_stop_during_the_start_announces_nothing(tmp_path: Path) -> None:
    """A process that was asked to end while its engine was late ends in order."""
    ready: list[list[str]] = []
    engine = Engine(DependencyError("store", "Cannot reach it."))
    process, _ = made(tmp_path, engine, ready.append)
    async with served(process) as serving, asyncio.timeout(within(5)):
        await engine.tried.wait()
        process.stop()
        engine.fault = None
        assert await serving
    assert ready == []


async def test_upgrades_are_refused(tmp_path: Path) -> None:
    """A process without WebSockets answers an upgrade to any path with a problem that names the cause."""
    process, url = made(tmp_path, Engine())
    async with process.running():
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(upgrade("/ws"))
        async with asyncio.timeout(within(5)):
            refused = await reader.read()
        writer.close()
    assert refused.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"no_route"' in refused
