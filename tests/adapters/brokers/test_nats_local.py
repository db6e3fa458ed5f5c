"""The NATS server of `serve --workers`: closed to other users of the machine, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.adapters.brokers.nats import NatsBroker, local_server
from narthex.adapters.brokers.nats.local_server import LocalNats
from narthex.errors import DependencyError
from tests.contracts.recorder import Recorder
from tests.timing import within

THREAD = "default/thread:t1"


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[LocalNats]:
    """A server in a directory that everybody may read."""
    (tmp_path / "nats").mkdir(mode=0o755)
    server = LocalNats(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


def mode(path: Path) -> int:
    """The permission bits."""
    return path.stat().st_mode & 0o777


async def publish(url: str, data: bytes) -> int:
    """Connect as a gateway does, publish, and return the offset."""
    broker = NatsBroker(url)
    await broker.start(Recorder(), "n1")
    published = await broker.publish(THREAD, data)
    await broker.stop()
    return published.offset


async def test_only_this_user_can_read_its_data_and_only_the_password_opens_it(
    nats: LocalNats, tmp_path: Path
) -> None:
    """An existing directory is closed too; the password is in a file of mode 0600."""
    assert mode(tmp_path / "nats") == 0o700
    assert mode(tmp_path / "nats" / "nats.conf") == 0o600
    assert await publish(nats.url, b"1") == 1
    address = nats.url.rpartition("@")[2]
    with pytest.raises(DependencyError):
        async with asyncio.timeout(within(10)):
            await publish(f"nats://{address}", b"2")


async def test_it_keeps_its_port_and_its_log_over_a_restart(nats: LocalNats) -> None:
    """Gateways reconnect to the same address; a stop is idempotent."""
    url = nats.url
    assert await publish(url, b"1") == 1
    nats.stop()
    nats.stop()
    assert not nats.alive()
    nats.start()
    assert nats.alive()
    assert nats.url == url
    assert await publish(url, b"2") == 2


async def test_a_server_that_outlived_its_parent_is_replaced(nats: LocalNats, tmp_path: Path) -> None:
    """The parent was killed: the next one ends it, since two servers must not have the same data."""
    assert await publish(nats.url, b"1") == 1
    after = LocalNats(tmp_path / "nats")
    after.start()
    assert after.alive()
    assert not nats.alive()
    assert await publish(after.url, b"2") == 2
    after.stop()


def test_another_program_with_its_number_is_left_alone(tmp_path: Path) -> None:
    """A number in an old file may belong to any program by now."""
    directory = tmp_path / "nats"
    directory.mkdir()
    (directory / "nats.pid").write_text(str(os.getpid()))
    server = LocalNats(directory)
    server.start()
    assert server.alive()
    server.stop()


def test_a_server_that_ignores_its_end_is_killed(nats: LocalNats, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen one does not handle SIGTERM."""
    monkeypatch.setattr(local_server, "STOP_S", 0.2)
    process = nats._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    nats.stop()
    assert process.poll() == -signal.SIGKILL


def test_a_server_that_cannot_start_names_its_log(tmp_path: Path) -> None:
    """Its port is taken, or its disk is broken: the log says which."""
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("no directory")
    with pytest.raises(DependencyError, match="does not listen") as refused:
        LocalNats(tmp_path / "nats").start()
    assert str(tmp_path / "nats" / "nats.log") in refused.value.remedy
