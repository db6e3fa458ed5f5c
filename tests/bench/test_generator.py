"""The generator against real servers: it counts arrivals, and reports what did not arrive."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from narthex.bench.cpu import family, memory, used
from narthex.bench.generator import GeneratorJob, measure, perform
from narthex.bench.load.dialects import BenchTarget
from narthex.bench.rounds import SCENARIOS, Contender, named, run_all
from narthex.bench.servers import attached, command_server, free_port
from narthex.errors import ClientError, DependencyError

FLOOR = f"{sys.executable} -m narthex.bench.floor {{port}}"


@pytest.fixture
def floor() -> Iterator[BenchTarget]:
    """The trivial server."""
    with command_server("floor", FLOOR) as target:
        yield target


def test_every_raw_scenario_counts_everything(floor: BenchTarget) -> None:
    """Handshakes, echoes, deliveries and idle sockets: all arrive, CPU is read, nothing fails."""
    jobs: list[tuple[str, dict[str, Any], int]] = [
        ("handshakes", {"count": 60, "in_flight": 10}, 60),
        ("echo", {"sockets": 5, "count": 200, "size": 40}, 200),
        ("fanout", {"subscribers": 30, "in_flight": 4, "publishes": 12, "size": 200}, 360),
        ("idle", {"sockets": 30, "hold_s": 0.3}, 30),
        ("storm", {"sockets": 30, "in_flight": 30}, 30),
    ]
    for scenario, options, operations in jobs:
        figure = perform(GeneratorJob(scenario=scenario, target=floor, options=options))
        assert (figure.failures, figure.operations, figure.notes) == (0, operations, []), scenario
        assert figure.cpu_us is not None
        assert figure.cpu_us > 0


def test_what_a_command_started_ends_with_it() -> None:
    """A shell that is ended leaves its children behind; a bench must not."""
    with command_server("script", f"sh -c '{FLOOR} & wait'") as target:
        (child,) = psutil.Process(target.pids[0]).children()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_generators_process_gives_the_same_kind_of_figure(floor: BenchTarget) -> None:
    """Job in, figure out, through the pipe."""
    figure = measure(GeneratorJob(scenario="handshakes", target=floor, options={"count": 40, "in_flight": 4}))
    assert (figure.scenario, figure.target, figure.operations) == ("handshakes", "floor", 40)
    assert figure.p99_ms >= figure.p50_ms > 0


def test_a_failing_generator_is_said(floor: BenchTarget) -> None:
    """Options that there are not: the trace, not a figure."""
    with pytest.raises(DependencyError, match="unexpected keyword"):
        measure(GeneratorJob(scenario="echo", target=floor, options={"nonsense": 1}))


@contextlib.contextmanager
def refusing(answer: bytes) -> Iterator[int]:
    """A server that answers every request with `answer` and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            listener.settimeout(0.05)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    peer, _ = listener.accept()
                    with peer:
                        peer.recv(4096)
                        peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def test_refusals_are_failures_with_their_reason() -> None:
    """A server that refuses is not measured as a fast one."""
    with refusing(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n") as port:
        target = BenchTarget(name="t", protocol="raw", host="127.0.0.1", port=port, pids=[])
        figure = perform(
            GeneratorJob(scenario="handshakes", target=target, options={"count": 5, "in_flight": 1})
        )
    assert (figure.operations, figure.cpu_us) == (0, None)
    assert figure.failures == 5
    assert figure.notes == ["5 × HTTP 401"]


@pytest.mark.alone
def test_cpu_and_memory_of_another_process_are_read(floor: BenchTarget) -> None:
    """By the nanosecond, descendants included; a root that ended is no figure."""
    before = used(floor.pids)
    perform(GeneratorJob(scenario="echo", target=floor, options={"sockets": 2, "count": 500, "size": 10}))
    assert 0 < used(floor.pids).since(before).total < 5
    assert memory(floor.pids).rss >= memory(floor.pids).uss > 0
    with pytest.raises(DependencyError, match="ended during the measurement"):
        used([2**22 - 3])
    own = used([os.getpid()])
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert used([os.getpid()]).since(own).total == pytest.approx(0.05, abs=0.05)
    assert family(os.getpid())[0] == os.getpid()


def test_targets_take_turns_and_give_ratios() -> None:
    """Two servers side by side: medians, spread, a ratio per scenario."""

    def opened(name: str) -> Contender:
        return Contender(name, "raw", lambda: command_server(name, FLOOR))

    (handshakes,) = named(["handshakes"])
    small = type(handshakes)(handshakes.name, "", {"count": 40, "in_flight": 4})
    order: list[str] = []
    outcome = run_all([opened("a"), opened("b")], [small], 2, order.append)
    assert order == [f"handshakes: {name}, round {number} of 2" for number in (1, 2) for name in "ab"]
    assert [(figure.target, figure.operations) for figure in outcome.figures] == [("a", 80), ("b", 80)]
    assert list(outcome.ratios) == ["handshakes: a / b"]
    assert set(outcome.spread) == {"handshakes: a", "handshakes: b"}


def test_scenarios_have_names() -> None:
    """`fanout` stands for all of them; what there is not is a KeyError."""
    assert [scenario.name for scenario in named(["fanout"])] == [
        "fanout-1000x1",
        "fanout-1000x8",
        "fanout-5000x1",
        "fanout-5000x8",
    ]
    assert len(list(named([scenario.name for scenario in SCENARIOS]))) == len(SCENARIOS)
    with pytest.raises(KeyError):
        list(named(["nonsense"]))


def test_servers_that_are_not_there_are_said() -> None:
    """A command that ends, one that there is not, a process that there is not."""
    with pytest.raises(DependencyError, match="did not start"), command_server("x", "false {port}"):
        pass
    with pytest.raises(DependencyError, match="cannot be started"), command_server("x", "./none {port}"):
        pass
    with pytest.raises(ClientError, match="No process has the pid"):
        attached("x", "127.0.0.1", free_port(), 2**22 - 3, protocol="raw", secret="", api_key="")
