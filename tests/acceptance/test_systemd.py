"""The program under systemd's protocols: ready, alive, draining; and on the socket that systemd opened."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from narthex.e2e.children import free_port
from tests.acceptance.program import Program, clean_environment
from tests.deploy.programs import program
from tests.timing import within

pytestmark = pytest.mark.acceptance


class Notice(NamedTuple):
    """A datagram, and the process that sent it."""

    text: str
    pid: int


class Systemd:
    """The end of `NOTIFY_SOCKET` that systemd has; the kernel says who sends."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._socket.settimeout(within(20))

    def next(self) -> Notice:
        """The next notice."""
        data, ancillary, _, _ = self._socket.recvmsg(1000, socket.CMSG_SPACE(struct.calcsize("3i")))
        pid, _, _ = struct.unpack("3i", ancillary[0][2][: struct.calcsize("3i")])
        return Notice(data.decode().splitlines()[0], pid)

    def until(self, text: str) -> list[Notice]:
        """Every notice up to this one."""
        found = [self.next()]
        while found[-1].text != text:
            found.append(self.next())
        return found

    def close(self) -> None:
        """Close it."""
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """As systemd gives it to a unit of Type=notify."""
    found = Systemd(tmp_path / "notify")
    yield found
    found.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_systemd_is_told_ready_alive_and_stopping(
    workers: int, tmp_path: Path, systemd: Systemd
) -> None:
    """Ready once the port answers, alive while the loop runs, stopping at SIGTERM; all by the main process."""
    env = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "1500000",
        "NARTHEX_DRAIN_GRACE_S": "4",
    }
    gateway = Program(tmp_path, env, ("--workers", str(workers)))
    process = gateway.spawn()
    try:
        notices = await asyncio.to_thread(systemd.until, "READY=1")
        async with httpx2.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{gateway.http}/readyz")).status_code == 200
        notices += await asyncio.to_thread(systemd.until, "WATCHDOG=1")
        notices += await asyncio.to_thread(systemd.until, "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        notices += await asyncio.to_thread(systemd.until, "STOPPING=1")
        assert await asyncio.to_thread(process.wait, within(15)) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    assert {notice.pid for notice in notices} == {process.pid}
    assert [notice.text for notice in notices].count("READY=1") == 1


async def test_the_program_serves_on_systemd_s_socket(tmp_path: Path) -> None:
    """`systemd-socket-activate` starts it at the first connection, which is answered."""
    activate = program("systemd-socket-activate", "apt-get install systemd")
    port = free_port()
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(  # noqa: ASYNC220 - a few ms, in a test
        [activate, "-l", f"127.0.0.1:{port}", sys.executable, "-m", "narthex", "serve", "--data-dir", "data"],
        cwd=tmp_path,
        env=clean_environment({}),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), within(1)).close()
                break
            await asyncio.sleep(0.05)
        async with httpx2.AsyncClient(trust_env=False, timeout=within(20)) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/livez")
        assert answer.status_code == 200
        assert answer.json()["status"] == "alive"
        process.terminate()
        assert await asyncio.to_thread(process.wait, within(15)) == 0
    finally:
        process.kill()
        process.wait()
        log.close()
