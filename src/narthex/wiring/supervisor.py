"""`--workers N`: N processes of a server on one port: gateways, or guards.

    parent ── holds the port and the store's file, starts NATS, replaces dead workers, passes signals on
      ├─ nats-server          for gateways, where no broker is configured
      ├─ worker 1 … N         each a whole server: SO_REUSEPORT, the same store, the same broker

Not here: the server itself (`gateway_worker`, `guard.process`), detecting a hung worker (`heartbeat`). Rules: the
parent serves nothing, so that no client can end it; a worker that dies, or whose event loop stands still, is replaced,
slower each time; one SIGTERM, or `narthex drain` at any of them, drains all of them within one grace; no sticky
sessions: any worker serves any socket.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from narthex.adapters.edge.listeners import listen, url_of
from narthex.adapters.systemd import SystemdNotifier, activated_descriptor
from narthex.adapters.telemetry import multiprocess
from narthex.adapters.telemetry.logging import configure_logging, get_logger
from narthex.errors import EXIT_CONFIG, ConfigError, DependencyError
from narthex.settings import Settings
from narthex.wiring.heartbeat import Heartbeat, Watchdog

READY_S: Final = 60.0
FIRST_RESTART_S: Final = 0.2
LAST_RESTART_S: Final = 10.0  # the longest wait before a worker that keeps dying is started again
STEADY_S: Final = 30.0  # after a life of this length the next restart is quick again
TICK_S: Final = 0.5
COMMAND_S: Final = 0.2  # the time in which a command for all nodes reaches the other workers

log = get_logger("narthex.workers")


class WorkerServer(Protocol):
    """The server of a worker, made inside its loop."""

    async def serve(self) -> bool:
        """Serve until a signal or `stop`, drain; returns whether the end was in order."""

    def stop(self) -> None:
        """Begin to drain, unless a drain has begun."""


class WorkerProgram(NamedTuple):
    """What the workers run. Every member is a function of a module, so that another process can import it.

    Attributes:
        load: reads the settings in a worker, from flags and the settings file.
        make: makes the server: from settings, arguments, a call when it is ready, a call when a command drains it.
        engines: whether the workers need a broker and a store's file, which the parent opens for all of them.
    """

    load: Callable[[Mapping[str, Any], Path | None], Settings]
    make: Callable[[Settings, WorkerArguments, Callable[[], None], Callable[[], None]], WorkerServer]
    engines: bool


class WorkerArguments(NamedTuple):
    """The arguments of a worker; they must be picklable. `flags` as for `narthex.settings.load`."""

    program: WorkerProgram
    flags: dict[str, Any]
    config: Path | None
    broker_url: str
    beside: bool


class WorkerProcess:
    """One child and its history."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: SpawnProcess | None = None
        self.restart_at = 0.0
        self.delay_s = FIRST_RESTART_S

    def begin(self, context: SpawnContext, orders: WorkerArguments) -> None:
        """Start the child anew."""
        self.ready, self.drained = context.Event(), context.Event()
        self.heartbeat, self.watchdog = Heartbeat(context), Watchdog(2 * TICK_S)
        self.process = context.Process(
            target=_work,
            args=(orders, self.ready, self.drained, self.heartbeat),
            name=f"narthex-worker-{self.number}",
        )
        self.process.start()
        self.born_at = time.monotonic()

    def alive(self) -> bool:
        """Whether the child runs."""
        return self.process is not None and self.process.is_alive()

    def on_command(self) -> bool:
        """Whether the server API asked this process of the child to drain."""
        return self.process is not None and self.drained.is_set()


def spreading_warning(platform: str) -> str:
    """A warning where the system does not spread the connections of one port over processes; else empty."""
    if platform.startswith(("linux", "freebsd")):
        return ""
    return (
        "This system does not spread a port's connections over several processes: one of them gets all connections. "
        "Run one worker here; --workers is for Linux."
    )


class Supervisor:
    """The parent.

    Args:
        settings: the parent's own reading of the same sources.
        flags: of the command line.
        config: the settings file.
        on_ready: called with the URL once every worker answers.
        program: of the workers.
    """

    def __init__(
        self,
        settings: Settings,
        flags: Mapping[str, Any],
        config: Path | None,
        on_ready: Callable[[str], None],
        program: WorkerProgram,
    ) -> None:
        self._program = program
        self._settings = settings
        self._flags = dict(flags)
        self._config = config
        self._on_ready = on_ready
        self._context = multiprocessing.get_context("spawn")
        self._workers = [WorkerProcess(number) for number in range(1, settings.workers + 1)]
        self._notifier = SystemdNotifier.take(os.environ)  # the parent speaks for the workers
        self._stopping_at: float | None = None
        self._forced = False

    def run(self) -> bool:
        """Serve until a signal; returns whether the end was in order.

        Raises:
            ConfigError: the port, the store's file or NATS cannot be had, or the workers refuse their settings.
        """
        settings = self._settings
        if activated_descriptor(os.environ) is not None:
            raise ConfigError(
                [
                    "systemd passes a socket, which --workers cannot share. Remove the socket unit, or --workers."
                ]
            )
        if warning := spreading_warning(sys.platform):
            log.warning("workers", detail=warning)
        with ExitStack() as stack:
            # Bound and never listening: it keeps the port (also one the kernel chose) between workers' lives.
            held = listen(settings.host, settings.port, reuse_port=True)
            stack.callback(_close, held)
            port = held[0].getsockname()[1]
            from narthex.wiring.engines import data_directory

            multiprocess.prepare(data_directory(settings) / "metrics")
            beside = self._hold_store(stack)
            nats = self._start_nats(stack)
            orders = WorkerArguments(
                self._program,
                self._flags | {"port": port, "workers": 1},
                self._config,
                nats.url if nats else "",
                beside,
            )
            stack.callback(self._end_all)
            self._take_signals(stack)
            for worker in self._workers:
                worker.begin(self._context, orders)
            self._await_ready()
            if self._stopping_at is None:
                self._notifier.ready()
                self._on_ready(url_of(settings.host, port))
            while any(worker.alive() for worker in self._workers) or self._stopping_at is None:
                self._tick(orders, nats)
                if self._late():
                    break
        return not self._forced

    # -- shared parts --------------------------------------------------------------------------------------

    def _hold_store(self, stack: ExitStack) -> bool:
        """With SQLite, the parent owns the file and migrates it; the workers open it beside."""
        if self._settings.store_url is not None or not self._program.engines:
            return False
        from narthex.wiring.engines import make_store

        store = make_store(self._settings)
        runner = stack.enter_context(asyncio.Runner())
        runner.run(store.start())
        stack.callback(lambda: runner.run(store.stop()))
        return True

    def _start_nats(self, stack: ExitStack) -> Any:
        """The local NATS server, or None where a broker is configured, or none is needed."""
        if self._settings.broker_url is not None or not self._program.engines:
            return None
        from narthex.adapters.brokers.nats.local_server import LocalNats

        nats = LocalNats(self._settings.data_dir.absolute() / "nats")
        stack.callback(nats.stop)
        nats.start()
        return nats

    # -- children ------------------------------------------------------------------------------------------

    def _await_ready(self) -> None:
        until = time.monotonic() + READY_S
        for worker in self._workers:
            while not worker.ready.wait(TICK_S):
                if self._stopping_at is not None:
                    return
                if not worker.alive():
                    assert worker.process is not None
                    if worker.process.exitcode == EXIT_CONFIG:
                        raise ConfigError(["The workers reject this configuration; the log above says why."])
                    return  # the supervision below replaces it
                if time.monotonic() > until:
                    log.warning("a worker is not ready", worker=worker.number, after_s=READY_S)
                    return

    def _tick(self, orders: WorkerArguments, nats: Any) -> None:
        """Wait for a death or a moment; replace dead workers."""
        self._notifier.alive()
        sentinels = [worker.process.sentinel for worker in self._workers if worker.process and worker.alive()]
        wait(sentinels, timeout=TICK_S)
        if self._stopping_at is None and any(worker.on_command() for worker in self._workers):
            log.info("a worker was asked to drain; draining all workers")
            time.sleep(COMMAND_S)
            if self._stopping_at is None:  # a signal may have come meanwhile
                self._stop()
        now = time.monotonic()
        if nats is not None and not nats.alive() and self._stopping_at is None:
            log.error("the local NATS server died; restarting it")
            try:
                nats.start()
            except DependencyError as fault:
                log.warning("broker", code=fault.code, detail=fault.message, remedy=fault.remedy)
        for worker in self._workers:
            if self._stopping_at is not None:
                continue  # the grace ends them
            if worker.alive():
                self._end_hung(worker, now)
                continue
            if worker.process is not None:
                self._buried(worker, now)
            if now >= worker.restart_at:
                worker.begin(self._context, orders)

    def _end_hung(self, worker: WorkerProcess, now: float) -> None:
        """Kill a worker whose loop stands still: it still accepts sockets, which would wait for ever."""
        if worker.process is not None and worker.watchdog.stalled_for_s(worker.heartbeat.count, now):
            log.error(
                "a worker hangs", worker=worker.number, pid=worker.process.pid, for_s=worker.watchdog.seconds
            )
            worker.process.kill()

    def _buried(self, worker: WorkerProcess, now: float) -> None:
        assert worker.process is not None
        pid, code = worker.process.pid, worker.process.exitcode
        worker.delay_s = (
            FIRST_RESTART_S if now - worker.born_at > STEADY_S else min(worker.delay_s * 2, LAST_RESTART_S)
        )
        worker.restart_at = now + worker.delay_s
        log.error("a worker died", worker=worker.number, pid=pid, exit=code, again_in_s=worker.delay_s)
        worker.process.join()
        worker.process = None
        if pid is not None:
            multiprocess.mark_dead(pid)

    # -- the end -------------------------------------------------------------------------------------------

    def _take_signals(self, stack: ExitStack) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._signal)
            stack.callback(signal.signal, number, before)

    def _signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal drains every worker at once; the second ends them."""
        del number, frame
        if self._stopping_at is None:
            self._stop()
        else:
            self._forced = True
            self._pass_on()

    def _stop(self) -> None:
        self._stopping_at = time.monotonic()
        self._notifier.stopping()
        self._pass_on()

    def _pass_on(self) -> None:
        """SIGTERM to each worker. One that drains on command would take it for a second one, which ends at once."""
        for worker in self._workers:
            if worker.process is None or worker.process.pid is None or not worker.alive():
                continue
            if self._forced or not worker.on_command():
                os.kill(worker.process.pid, signal.SIGTERM)

    def _late(self) -> bool:
        if self._stopping_at is None:
            return False
        return self._forced or time.monotonic() - self._stopping_at > self._settings.drain_grace_s + 1.0

    def _end_all(self) -> None:
        """Kill the remaining workers: the grace is over."""
        for worker in self._workers:
            if worker.process is not None and worker.alive():
                self._forced = True
                worker.process.kill()
                worker.process.join()


def _work(orders: WorkerArguments, ready: Event, drained: Event, heartbeat: Heartbeat) -> None:
    """Run a worker in a session of its own: the parent passes a terminal's Ctrl-C on, once."""
    os.setsid()
    try:
        settings = orders.program.load(orders.flags, orders.config)
        configure_logging(
            log_format=settings.log_format, level=settings.log_level, secrets=settings.secret_values()
        )
        raise SystemExit(_serve(settings, orders, ready, drained, heartbeat))
    except ConfigError as fault:
        for problem in fault.problems:
            log.critical("configuration", detail=problem)
        raise SystemExit(EXIT_CONFIG) from fault


def _serve(
    settings: Settings, orders: WorkerArguments, ready: Event, drained: Event, heartbeat: Heartbeat
) -> int:
    from narthex.adapters.edge.server import run

    async def serve() -> bool:
        loop = asyncio.get_running_loop()
        server = orders.program.make(settings, orders, ready.set, drained.set)
        tasks = [loop.create_task(_until_orphaned(server)), loop.create_task(heartbeat.beat())]
        try:
            return await server.serve()
        finally:
            for task in tasks:
                task.cancel()

    return 0 if run(serve()) else 1


async def _until_orphaned(server: WorkerServer) -> None:
    """Wait until the parent is gone, then drain: a killed parent cannot pass signals on."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel sends no signal
        await asyncio.sleep(1.0)
    log.error("the parent process is gone; draining")
    server.stop()


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()
