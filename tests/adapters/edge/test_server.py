"""The server process: signals, draining, listeners."""

from __future__ import annotations

import signal
import socket
import struct
import time
from pathlib import Path

import pytest

from narthex.adapters.edge import server as server_module
from narthex.adapters.edge.listeners import listen, url_of
from narthex.adapters.edge.server import EdgeServer
from narthex.errors import ConfigError
from tests.adapters.edge.child import child
from tests.adapters.edge.harness import TIME_UNIT_S, Running, upgrade
from tests.timing import within


def test_sigterm_drains_while_the_listener_stays_open() -> None:
    """New upgrades get 503 `draining`; remaining sockets are closed 3001; the process exits 0."""
    with child(DRAIN_S="1") as program, program.websocket() as live:
        program.signal(signal.SIGTERM)
        assert program.line() == {"draining": True}
        with program.peer() as peer:
            peer.send(upgrade())
            head, body = peer.answer()
            assert head.status == 503
            assert b'"draining"' in body
        with program.peer() as peer:
            peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.answer()[0].status == 200
        assert live.close_frame() == (3001, "draining: The gateway is shutting down")
        live.send(b"\x88\x82\0\0\0\0\x0b\xb9")
        assert live.rest() == b""
        assert program.line() == {"orderly": True}
        assert program.process.wait(TIME_UNIT_S) == 0
        with pytest.raises(OSError, match=r"refused"):
            program.peer()


def test_partial_requests_do_not_hold_the_exit() -> None:
    """Pending handshakes made stock uvicorn wait for ever; clients that ignore the close are dropped too."""
    with child() as program:
        peers = [program.peer() for _ in range(20)]
        for peer in peers:
            peer.send(b"GET / HTTP/1.1\r\nHost:")
        with program.websocket(), program.websocket("/ws/conformance"):
            started = time.monotonic()
            program.signal(signal.SIGTERM)
            assert program.process.wait(TIME_UNIT_S) == 0
            assert time.monotonic() - started < 8
        for peer in peers:
            peer.socket.close()


def test_a_second_signal_ends_at_once() -> None:
    """A second signal is intentional."""
    with child(DRAIN_S="60") as program, program.websocket():
        program.signal(signal.SIGINT)
        assert program.line() == {"draining": True}
        started = time.monotonic()
        program.signal(signal.SIGTERM)
        assert program.line() == {"orderly": False}
        assert program.process.wait(TIME_UNIT_S) == 0
        assert time.monotonic() - started < 2


def test_a_drain_that_takes_too_long_is_cut() -> None:
    """The grace period holds: 8 s from the signal to the end, whatever `drain` does."""
    with child(DRAIN_S="60") as program:
        started = time.monotonic()
        program.signal(signal.SIGTERM)
        assert program.process.wait(TIME_UNIT_S) == 0
        assert 5 < time.monotonic() - started < 8.5


def test_nothing_is_printed_about_requests(capfd: pytest.CaptureFixture[str]) -> None:
    """No access log: a query string may contain a ticket."""
    with child() as program, program.peer() as peer:
        peer.send(b"GET /x?ticket=secret-canary HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert peer.answer()[0].status == 200
        with program.peer() as other:
            other.send(upgrade("/ws?ticket=secret-canary"))
            assert other.head().status == 101
        program.signal(signal.SIGTERM)
        program.process.wait(TIME_UNIT_S)
    out, err = capfd.readouterr()
    assert "secret-canary" not in out + err


def test_an_address_that_cannot_be_bound_is_a_configuration_error() -> None:
    """With the address in its sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"does not resolve"):
        listen("no-such-host.invalid", 0)


def test_a_server_that_has_ended_wakes_nothing() -> None:
    """An application that embeds it keeps its loop: a deadline of a connection must not hold it, or come later."""

    class Sleeper:
        due = 0

        def wake(self, now: float) -> None:
            raise AssertionError(now)

    sleeper = Sleeper()
    with Running() as server:
        timers = server.edge.timers
        server.call(lambda: timers.schedule(sleeper, timers.now() + 60))
        assert (sleeper.due, len(timers)) != (0, 0)
    assert (sleeper.due, len(timers)) == (0, 0)


def test_the_kernel_alone_bounds_the_queue_of_connections() -> None:
    """An operator who raises net.core.somaxconn gets a longer queue; a fixed one overflows in a storm of reconnects."""
    kernels = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with Running() as server:
        (listener,) = server._listeners
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("=I", info, 28)[0] == min(kernels, 65_535)


def test_several_processes_can_share_a_port() -> None:
    """`SO_REUSEPORT` for workers."""
    (first,) = listen("127.0.0.1", 0, reuse_port=True)
    port = first.getsockname()[1]
    (second,) = listen("127.0.0.1", port, reuse_port=True, send_buffer_bytes=65_536)
    assert second.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 131_072
    first.close()
    second.close()


def test_every_address_of_both_families() -> None:
    """`::` accepts IPv4 connections as well; a port that another program holds on one family is refused."""
    listeners = listen("::", 0)
    port = listeners[0].getsockname()[1]
    for listener in listeners:
        listener.listen()
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, port), timeout=within(5)).close()
    for listener in listeners:
        listener.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="in use"):
            listen("::", other.getsockname()[1])


def test_localhost_is_one_port_on_every_family() -> None:
    """A free port is the same for IPv4 and IPv6."""
    listeners = listen("localhost", 0)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


def test_a_repeated_command_does_not_cut_the_drain_short() -> None:
    """A sender may repeat a command; only a second signal ends the process at once."""
    server = Running().new_server()
    server.stop_once()
    server.stop_once()
    assert not server.forced
    server.stop()
    assert server.forced


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000"), ("::", "http://[::]:8000")],
)
def test_the_url_of_a_listener_can_be_opened(host: str, url: str) -> None:
    """Also where the gateway listens on IPv6."""
    assert url_of(host, 8000) == url


def test_an_idle_server_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn's own loop asks ten times a second whether it is over; here the signal itself ends the wait."""
    asked: list[int] = []

    async def on_tick(server: EdgeServer, counter: int) -> bool:
        asked.append(counter)
        return await ask(server, counter)

    ask = EdgeServer.on_tick
    monkeypatch.setattr(server_module, "_DATE_EVERY_S", 3_600.0)
    monkeypatch.setattr(EdgeServer, "on_tick", on_tick)
    with Running() as running:
        time.sleep(0.5)  # five of uvicorn's ticks
        assert len(asked) == 1
    assert not running.alive()


def test_a_signal_ends_the_wait_of_an_idle_process() -> None:
    """The process drains at once, and not with the next second's `Date`."""
    with child(DATE_EVERY_S="3600") as program:
        program.signal(signal.SIGTERM)
        assert program.line() == {"draining": True}
        assert program.line() == {"orderly": True}
        assert program.process.wait(TIME_UNIT_S) == 0
