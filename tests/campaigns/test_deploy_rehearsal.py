"""A deploy, rehearsed: two revisions behind HAProxy with the configuration of deploy/, users at work all the time.

Roll forward, a third revision whose gate finds a seeded fault, roll back. The judge is the history checker, which reads
only what clients sent and received: nothing is lost, nothing comes twice, every run is complete to its digest, and
what a user meets is a reconnect and no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from narthex.deploy.rendering import DeploymentTarget, render
from narthex.e2e.children import clean_environment, free_port
from tests.acceptance.fleet import Fleet, fleet
from tests.acceptance.program import Program
from tests.campaigns.follower import SERVED, Follower, Line, quantile, token
from tests.campaigns.watcher import BACKOFF_FIRST_S, BACKOFF_LAST_S
from tests.deploy.manifests import settings_from
from tests.deploy.programs import program
from tests.history import Bounds, Recorder, check, report, summary
from tests.timing import within

pytestmark = pytest.mark.acceptance

DELTAS: Final = 40
AGENTS: Final = ("--agent", "tests.campaigns.agents:parrot", "--agent", "tests.campaigns.agents:steady")
BROKEN: Final = ("--agent", "tests.campaigns.broken:agent", "--agent", "tests.campaigns.agents:steady")
"""The default agent has the fault; the users ask for `steady`."""
DRAINED: Final = 3001
PER_REVISION: Final = 2
GATE_TRIES: Final = 4
CONNECT, SUBSCRIBE = 1, 2  # ids of these commands


class User(Follower):
    """One person with one device, who sends a message every `period_s` and reads the answer, through any socket.

    Attributes:
        answers: run ids of acknowledged messages.
        errors: error replies that an application would have to show.
        temporary: error replies after which the same command was sent again, as SDKs do by themselves.
        refused: statuses of handshakes that were not upgraded.
        outages_s: from the end of a socket until the next one has recovered all missed events.
    """

    def __init__(self, port: int, name: str, recorder: Recorder, period_s: float) -> None:
        super().__init__(port, token(name), recorder=recorder, reader=name, user=name)
        self.name = name
        self.period_s = period_s
        self.answers: dict[str, str] = {}
        self.errors: list[str] = []
        self.temporary = 0
        self.refused: list[int] = []
        self.outages_s: list[float] = []
        self.leaving = False
        self.thread = ""
        self._connected = asyncio.Event()
        self._ended_at = 0.0

    async def attend_always(self) -> None:
        """Reconnect as centrifuge-js does, until the user leaves."""
        failures = 0
        while not self.leaving:
            before = len(self.closes)
            self._connected.clear()
            await self.attend()
            self._connected.clear()
            self._ended_at = self._ended_at or time.monotonic()
            ended = self.closes[before:]
            refused = [status for status in ended if 100 < status < 600]
            self.refused += refused
            failures = failures + 1 if refused or ended == [1006] else 0
            pause_s = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**failures)
            await asyncio.sleep(random.uniform(0, pause_s))

    def _message(self, line: Line, message: dict[str, Any], began: float) -> None:
        if "connect" in message:
            self._connected.set()
            if not self.channel:
                self._is_back()
        if message.get("error", {}).get("temporary") and message.get("id") in (CONNECT, SUBSCRIBE):
            # As SDKs do: a temporary error of a subscription is tried again, one of connect on another socket.
            self.temporary += 1
            if message["id"] == CONNECT:
                line.cut()
            else:
                asyncio.get_running_loop().call_later(random.uniform(0.5, 1.5), self._again, line)
            return
        super()._message(line, message, began)

    def _again(self, line: Line) -> None:
        if line is self.line and self._connected.is_set():
            self._subscribe(line)

    def _joined(self, result: dict[str, Any], took_s: float) -> None:
        super()._joined(result, took_s)
        self._is_back()

    def _is_back(self) -> None:
        if self._ended_at:
            self.outages_s.append(time.monotonic() - self._ended_at)
            self._ended_at = 0.0

    async def speak(self, until: asyncio.Event) -> None:
        """Send messages, the first one at a random moment of the period."""
        number, wait_s = 0, random.uniform(0, self.period_s)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), wait_s)
            if until.is_set():
                return
            await self._say(f"{self.name}-{number}")
            number, wait_s = number + 1, self.period_s

    async def _say(self, message: str) -> None:
        """Until it is acknowledged; the same id makes a repetition harmless."""
        while True:
            await self._connected.wait()
            line = self.line
            assert line is not None
            thread = {"thread_id": self.thread} if self.thread else {}
            text = f"rate=10 seconds={DELTAS // 10}"
            try:
                async with asyncio.timeout(within(20)):
                    reply = await line.call(
                        "run.start", text=text, agent="steady", client_message_id=message, **thread
                    )
            except (OSError, TimeoutError, asyncio.CancelledError):
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                await asyncio.sleep(0.05)  # the socket ended: the next one takes it
                continue
            if "error" in reply:
                # Temporary: an engine answered late, as on a machine that others load too. The client tries again.
                if not reply["error"].get("temporary"):
                    self.errors.append(f"{message}: {reply['error']}")
                    return
                self.temporary += 1
                await asyncio.sleep(1)
                continue
            answer = reply["rpc"]["data"]
            self.answers[message] = answer["run_id"]
            if not self.thread:
                self.thread = answer["thread_id"]
                self.join(answer["channel"])
            return

    async def finish(self) -> None:
        """Wait until every acknowledged run has ended here, then close the socket."""
        for run_id in self.answers.values():
            await self.until_over(run_id)
        self.leaving = True
        if self.line is not None:
            self.line.cut()


class Proxy:
    """HAProxy with the rendered configuration, four servers, and its runtime socket."""

    def __init__(self, folder: Path, ports: dict[str, int], users: int) -> None:
        self.port = free_port()
        self._socket = folder / "haproxy.sock"
        text = render("haproxy", settings_from(), DeploymentTarget())["haproxy.cfg"]
        text = text.replace("bind :80", f"bind 127.0.0.1:{self.port}")
        text = re.sub(
            r"maxconn \d+", f"maxconn {3 * users + 200}\n    stats socket {self._socket} level admin", text
        )
        servers = "".join(
            f"    server {name} 127.0.0.1:{port}{' disabled' if name.startswith('new') else ''}\n"
            for name, port in ports.items()
        )
        path = folder / "haproxy.cfg"
        path.write_text(re.sub(r"    server .*\n", servers, text))
        self._log = (folder / "haproxy.log").open("wb")
        words = [program("haproxy", "apt-get install haproxy"), "-db", "-f", str(path)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )

    def say(self, command: str) -> str:
        """A command of the runtime API; its answer."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._socket))
            admin.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: admin.recv(65_536), b"")).decode()

    async def take(self, *names: str) -> None:
        """Put servers into rotation, and wait until their checks pass."""
        for name in names:
            self.say(f"enable server narthex/{name}")
        await self.wait_for(names, "UP")

    async def wait_for(self, names: Sequence[str], state: str) -> None:
        """Wait for the state of servers."""
        async with asyncio.timeout(within(30)):
            while not all(self._state(name).startswith(state) for name in names):  # noqa: ASYNC110 - HAProxy is polled
                await asyncio.sleep(0.1)

    def _state(self, name: str) -> str:
        if not self._socket.exists():
            return ""
        rows = [row.split(",") for row in self.say("show stat").splitlines()]
        return next((row[17] for row in rows if row[:2] == ["narthex", name]), "")

    def end(self) -> None:
        """End it by its process."""
        self._process.terminate()
        self._process.wait(within(10))
        self._log.close()


def gate(gateway: Program) -> subprocess.CompletedProcess[str]:
    """`narthex gate` as the pipeline runs it, at the revision itself."""
    return subprocess.run(
        [sys.executable, "-m", "narthex", "gate", gateway.http, "--json", "--timeout", f"{within(5):g}s"],
        env=clean_environment({"NARTHEX_TOKEN": token("gate")}),
        capture_output=True, text=True, check=False, timeout=within(90),
    )  # fmt: skip


async def opens(gateway: Program) -> None:
    """The gate passes; on a machine that others load too, health's own checks may be late once or twice."""
    for attempt in range(GATE_TRIES):
        found = await asyncio.to_thread(gate, gateway)
        if found.returncode == 0:
            return
        assert attempt < GATE_TRIES - 1, found.stdout


async def drained(*gateways: Program) -> None:
    """SIGTERM, one after the other, each to its end."""
    for gateway in gateways:
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.process.wait, within(60)) == 0


@contextlib.asynccontextmanager
async def users(port: int, count: int, period_s: float, recorder: Recorder) -> AsyncIterator[list[User]]:
    """Everybody connected and at work; at the end everybody's runs are read to their end."""
    people = [User(port, f"u{number}", recorder, period_s) for number in range(count)]
    quiet = asyncio.Event()
    sockets: list[asyncio.Task[None]] = []
    for start in range(0, count, 50):  # people do not arrive in one moment
        sockets += [asyncio.create_task(person.attend_always()) for person in people[start : start + 50]]
        await asyncio.sleep(0.2)
    voices = [asyncio.create_task(person.speak(quiet)) for person in people]
    try:
        yield people
        quiet.set()
        async with asyncio.timeout(within(120)):
            await asyncio.gather(*voices)
            await asyncio.gather(*(person.finish() for person in people))
            await asyncio.gather(*sockets)
    finally:
        for task in (*sockets, *voices):
            task.cancel()
        await asyncio.gather(*sockets, *voices, return_exceptions=True)


async def rehearse(
    folder: Path, built: Fleet, count: int, period_s: float, settle_s: float
) -> dict[str, float]:
    """The whole deploy; returns the figures. `settle_s`: work between two steps."""
    old = await built.gateways(PER_REVISION, *AGENTS)
    new = await built.gateways(PER_REVISION, *AGENTS)
    await drained(*new)  # only their ports are wanted now
    ports = {
        f"{kind}{n}": one.port for kind, some in (("old", old), ("new", new)) for n, one in enumerate(some)
    }
    proxy = Proxy(folder, ports, count)
    recorder = Recorder()
    try:
        await proxy.wait_for([name for name in ports if name.startswith("old")], "UP")
        async with users(proxy.port, count, period_s, recorder) as people:
            await asyncio.sleep(settle_s)

            await asyncio.gather(*(one.start() for one in new))  # without traffic
            for one in new:
                await opens(one)
            await proxy.take("new0", "new1")
            await drained(*old)
            proxy.say("disable server narthex/old0")
            proxy.say("disable server narthex/old1")
            forward = len([code for person in people for code in person.closes if code == DRAINED])
            await asyncio.sleep(settle_s)

            faulty = await built.gateway(*BROKEN)  # never in the proxy's list: without traffic
            closed = await asyncio.to_thread(gate, faulty)
            assert closed.returncode == 1, closed.stdout
            await drained(faulty)

            await asyncio.gather(*(one.start() for one in old))
            for one in old:
                await opens(one)
            await proxy.take("old0", "old1")
            await drained(*new)
            await asyncio.sleep(settle_s)
    finally:
        proxy.end()
    return judged(people, recorder, forward)


def judged(people: list[User], recorder: Recorder, forward: int) -> dict[str, float]:
    """Assert that nothing was lost and that users met reconnects only; returns the figures."""
    faults = [f"{person.name}: {fault}" for person in people for fault in person.faults]
    assert faults == [], faults[:5]
    errors = [error for person in people for error in person.errors]
    assert errors == [], errors[:5]
    runs = [(person.name, person.runs[run_id]) for person in people for run_id in person.answers.values()]
    broken = [
        f"{name}: {proof.terminal}, {proof.last} events, {len(proof.text)} deltas"
        for name, proof in runs
        if not proof.proven
        or not proof.text
        or proof.terminal is None
        or proof.terminal["type"] != "RUN_FINISHED"
    ]
    assert broken == [], f"{len(broken)} runs are not whole: {broken[:5]}"
    findings = check(recorder.history(), Bounds(run_end_s=0.0))
    assert not findings, report(findings)
    closes = Counter(code for person in people for code in person.closes)
    left = closes.pop(1006, 0)
    assert left <= len(people), (
        f"{left - len(people)} sockets were cut without a close frame"
    )  # each user's own end
    refused = Counter(status for person in people for status in person.refused)
    for status in refused:
        closes.pop(status, 0)
    assert set(closes) <= {DRAINED}, closes
    assert forward >= len(people), "not all sockets were moved forward"
    assert set(refused) <= {503}, refused
    temporary = sum(person.temporary for person in people)
    assert temporary <= len(runs) // 10, f"{temporary} temporary errors at {len(runs)} messages"
    outages = [outage for person in people for outage in person.outages_s]
    counts = summary(recorder.history())
    return {
        "users": len(people), "messages": len(runs), "events": sum(person.events for person in people),
        "temporary_errors": temporary, "reconnects": closes[DRAINED], "refused_503": refused[503],
        "records": sum(counts.values()),
        "outage_p50_s": round(quantile(outages, 0.5), 2), "outage_p99_s": round(quantile(outages, 0.99), 2),
        "outage_max_s": round(max(outages), 2),
    }  # fmt: skip


@pytest.mark.alone
@pytest.mark.timeout(400)
async def test_a_deploy_with_40_users_loses_nothing(tmp_path: Path) -> None:
    """The short version: a message every ten seconds, so that drains always meet runs in progress."""
    env = SERVED | {"NARTHEX_DRAIN_GRACE_S": "30", "NARTHEX_TRUSTED_PROXIES": "127.0.0.1"}
    async with fleet(tmp_path, **env) as built:
        figures = await rehearse(tmp_path, built, 40, 10.0, 2.0)
    print(f"\n{figures}")
    assert figures["messages"] >= 40


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_deploy_with_2000_users_loses_nothing(tmp_path: Path) -> None:
    """2,000 users, each a message every two minutes with 40 deltas an answer."""
    env = SERVED | {"NARTHEX_DRAIN_GRACE_S": "30", "NARTHEX_TRUSTED_PROXIES": "127.0.0.1"}
    async with fleet(tmp_path, **env) as built:
        figures = await rehearse(tmp_path, built, 2000, 120.0, 30.0)
    print(f"\n{figures}")
    assert figures["messages"] >= 2000
