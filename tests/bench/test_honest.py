"""Figures cannot flatter: stalls, silence, short-lived children, shared tokens and quick baselines are reported."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from narthex.bench import baseline
from narthex.bench.cpu import used
from narthex.bench.load.dialects import BenchTarget, ServerDialect
from narthex.bench.load.runs import Follower, _rate
from narthex.bench.load.scenarios import PROBE_EVERY_S, Probe, _recovery
from narthex.bench.load.sockets import ClientPool, ClientSocket
from narthex.bench.results import BenchReport, Figure, combine
from narthex.bench.rounds import SCENARIOS
from narthex.errors import ClientError
from narthex.protocol.client import StreamPosition
from narthex.reports.latency import percentile

RAW = BenchTarget(name="t", protocol="raw", host="127.0.0.1", port=1, pids=[])


class Server:
    """One end of an idle socket, whose other end a probe asks: it answers until `silent_from`, or after a pause."""

    def __init__(self, *, pause_s: float = 0.0, answers: int = 1_000_000) -> None:
        self.crowd = ClientPool(ServerDialect(RAW))
        mine, theirs = socket.socketpair()
        theirs.setblocking(False)
        client = ClientSocket(theirs, "bench")
        self.crowd.clients[client.fd] = client
        self.crowd.poll.register(client.fd, select.EPOLLIN)
        self._socket = mine
        self._pause_s = pause_s
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for number in range(self._answers):
            data = self._socket.recv(65_536)
            if not data:
                return
            if number == 3 and self._pause_s:
                time.sleep(self._pause_s)
            self._socket.sendall(b"\x82\x01x")

    def end(self) -> None:
        """Close both ends."""
        self._socket.close()
        self.crowd.close()
        self._thread.join(2)


def probed(server: Server, hold_s: float, patience_s: float = 0.2) -> Probe:
    """A probe that was run on it."""
    probe = Probe(server.crowd, hold_s, patience_s=patience_s)
    try:
        probe.run()
    finally:
        server.end()
    return probe


def test_a_stall_counts_for_every_moment_of_it() -> None:
    """A loop that stood still for 0.6 s is no single sample among a dozen quick ones: p50 shows it."""
    quick = probed(Server(), 0.8)
    assert quick.unanswered == 0
    assert percentile(sorted(wait for _, wait in quick.waits), 0.5) < PROBE_EVERY_S
    stalled = probed(Server(pause_s=0.6), 0.8)
    assert stalled.unanswered == 0
    assert len(stalled.waits) >= 0.6 / PROBE_EVERY_S
    assert percentile(sorted(wait for _, wait in stalled.waits), 0.5) > 2 * PROBE_EVERY_S
    assert max(wait for _, wait in stalled.waits) >= 0.6


def test_answers_that_stop_are_failures() -> None:
    """3 of 40 answered was "p99 0.2 ms, 0 failures"."""
    probe = probed(Server(answers=3), 1.0)
    assert probe.answered == 3
    assert probe.unanswered >= 0.7 / PROBE_EVERY_S
    assert probe.why() == [f"{probe.unanswered} probes got no answer"]


def test_a_server_that_never_answers_is_one_too() -> None:
    """And so is one without a single socket: nothing measured is no zero."""
    assert probed(Server(answers=0), 0.3).unanswered >= 5
    crowd = ClientPool(ServerDialect(RAW))
    probe = Probe(crowd, 0.05)
    probe.run()
    crowd.close()
    assert probe.unanswered == 1


BURN = "import time\nend = time.process_time() + {s}\nwhile time.process_time() < end: pass\n"
PARENT = """
import subprocess, sys
print("ready", flush=True)
for line in sys.stdin:
    if line.startswith("burn"):
        subprocess.run([sys.executable, "-c", {burn!r}])
    elif line.startswith("begin"):
        child = subprocess.Popen([sys.executable, "-c", {burn!r} + "time.sleep(60)"])
        import time; time.sleep(1.2)
    else:
        child.kill(); child.wait()
    print("done", flush=True)
"""


@pytest.mark.alone
def test_children_that_begin_or_end_meanwhile_are_counted() -> None:
    """What a child used before it ended was lost, and one that ended made the difference negative."""
    code = PARENT.format(burn=BURN.format(s=0.3))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(word: str) -> float:
        """CPU between the request and its answer."""
        before = used([process.pid])
        stdin.write(word + "\n")
        stdin.flush()
        assert stdout.readline() == "done\n"
        return used([process.pid]).since(before).total

    try:
        assert stdout.readline() == "ready\n"
        assert 0.25 < ask("burn") < 1.5
        assert 0.25 < ask("begin") < 1.5
        assert -0.05 < ask("end") < 0.2
    finally:
        process.kill()
        process.communicate()


class Tokens(ServerDialect):
    """Counts the tokens that it mints."""

    def __init__(self, target: BenchTarget) -> None:
        super().__init__(target)
        self.given: list[str] = []

    def token(self, subject: str, **claims: Any) -> str:
        """A token, noted."""
        self.given.append(super().token(subject, **claims))
        return self.given[-1]


@pytest.mark.parametrize("protocol", ["narthex", "centrifugo"])
def test_every_handshake_has_a_token_of_its_own(protocol: Any) -> None:
    """Also where two have one subject, and where the token travels in `connect`: 500 served 3,000 handshakes."""
    target = BenchTarget(name="t", protocol=protocol, host="127.0.0.1", port=9, pids=[], secret="s" * 40)
    dialect = Tokens(target)
    crowd = ClientPool(dialect)
    crowd.grow(
        [f"u-{number % 5}" for number in range(30)]
    )  # nothing listens there: they were made all the same
    crowd.close()
    assert len(set(dialect.given)) == len(dialect.given) == 30


def test_whoever_subscribes_by_itself_asks_for_recovery_too() -> None:
    """A storm of Centrifugo's clients came back without positions."""
    target = BenchTarget(name="t", protocol="centrifugo", host="127.0.0.1", port=9, pids=[])
    before = ClientPool(ServerDialect(target), channel="recover:bench")
    before.results["u"] = {"recoverable": True, "epoch": "abcd", "offset": 7}
    subs, position = _recovery(before)
    before.close()
    assert subs("u") is None
    assert position("u") == StreamPosition(7, "abcd")
    assert position("stranger") is None
    frame = ServerDialect(target).subscribe("recover:bench", position("u"))
    assert len(frame) > 50


def follower(run_id: str, events: list[tuple[float, int, int]]) -> Follower:
    """One that took these deltas: at, seq_from, seq."""
    server = socket.socket()
    made = Follower(ClientSocket(server, run_id))
    server.close()
    made.run_id = run_id
    for at, first, last in events:
        made.deltas += last - first + 1
        made.last_at = at
        if not made.first_at:
            made.first_at, made.first_deltas = at, made.deltas
    return made


def test_deltas_a_second_are_measured() -> None:
    """What arrived over the time that it took, each run once, joined ones each; not what was asked for."""
    joined = follower("x", [])
    joined.take(
        {"runId": "x", "seq": 1, "type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "1 2 3 "}, []
    )
    assert joined.deltas == 3
    one = [follower("a", [(10.0, 1, 1), (12.0, 2, 101)]), follower("a", [(10.0, 1, 1), (14.0, 2, 101)])]
    assert _rate([*one, follower("b", [(10.5, 1, 1), (11.5, 2, 51)])]) == pytest.approx(100.0)
    assert _rate([]) == 0.0


def test_every_scenario_is_measured_in_every_round() -> None:
    """`idle` and `runs` once had one round where the page claimed five; each figure names the number of its rounds."""
    assert not [scenario.name for scenario in SCENARIOS if getattr(scenario, "rounds", 0)]
    figures = [Figure(scenario="idle", target="t", operations=1) for _ in range(5)]
    assert combine(figures).rounds == 5


def test_a_quick_baseline_compares_with_nothing_else(tmp_path: Path) -> None:
    """Figures of 300 sockets and of 10,000 are not one figure."""
    quick = BenchReport(version="", machine="", python="", cores=1, at="", rounds=1, figures=[], quick=True)
    path = tmp_path / "quick.json"
    baseline.save(quick, path)
    baseline.must_fit(baseline.load(path), quick=True)
    with pytest.raises(ClientError, match="from a quick run and this run is a full one"):
        baseline.must_fit(baseline.load(path), quick=False)
