"""Starts `program` as a child process, and measures it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.adapters.edge.harness import TIME_UNIT_S, Peer, upgrade

ROOT = Path(__file__).resolve().parents[3]


class Child:
    """A running `program`."""

    def __init__(self, **environment: str) -> None:
        paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.adapters.edge.program"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.line()["port"])

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def line(self) -> dict[str, Any]:
        """The next line of its output."""
        found: dict[str, Any] = json.loads(self._out.readline())
        return found

    def peer(self) -> Peer:
        return Peer(self.port)

    @contextmanager
    def websocket(self, path: str = "/ws", *, extra: str = "") -> Iterator[Peer]:
        with self.peer() as peer:
            peer.send(upgrade(path, extra=extra))
            assert peer.head().status == 101
            yield peer

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def memory(self) -> int:
        """Private dirty bytes now."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(text.split("Private_Dirty:")[1].split()[0]) * 1024

    def peak(self) -> int:
        """Highest resident size since the start or the last `forget_peak`, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """Kill it if it still runs; its exit status."""
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait(TIME_UNIT_S)
        self._out.close()
        return status


@contextmanager
def child(**environment: str) -> Iterator[Child]:
    """A running `program`, ended afterwards."""
    started = Child(**environment)
    try:
        yield started
    finally:
        started.stop()
