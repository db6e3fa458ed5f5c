"""Compare an ASGI application with the same one behind `narthex.Guard`, all under real uvicorn.

    python benchmarks/guard.py [--rounds 40] [--handshakes 60] [--held 3000]

Three uvicorn processes serve the same echo: bare, guarded, and `framed`, which has nothing around the application but
an empty coroutine frame at `receive` and one at `send`, as most middleware has them. Every round asks all in turn, so
that a busy machine hits all alike. CPU is the server process's own, from /proc: of a handshake with a token that was
never seen before (HS256, the key at hand) up to the end of its connection, and of an echoed message. The CPU that the
process takes in the same time without a client is subtracted, and printed by itself. Printed are the smallest and the
median of the rounds' differences, and what a held socket adds to memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import jwt

sys.path.insert(0, str(Path(__file__).parent))
from guard_proxy import SECRET, SETTINGS, cpu_s, echo_us, free_port, process, rss

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
IDLE_S: Final = 3.0
APPLICATION: Final = """
import gc
import os

async def bare(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event["bytes"]})

async def framed(scope, receive, send):
    if scope["type"] == "lifespan":
        return await bare(scope, receive, send)

    async def framed_receive():
        return await receive()

    async def framed_send(message):
        return await send(message)

    await bare(scope, framed_receive, framed_send)

if os.environ["SERVED"] == "guarded":
    import narthex
    app = narthex.Guard(bare, paths=["/ws"])
else:
    app = {"bare": bare, "framed": framed}[os.environ["SERVED"]]
"""


def tokens(count: int) -> list[str]:
    """Tokens that are all different, and of as many users."""
    now = int(time.time())
    claims = {
        "iat": now,
        "exp": now + 7200,
        "iss": "https://id.example.com/",
        "aud": "chat",
        "tenant": "default",
    }
    return [
        jwt.encode(
            {"sub": os.urandom(8).hex(), "jti": os.urandom(8).hex(), **claims}, SECRET, algorithm="HS256"
        )
        for _ in range(count)
    ]


def asked(port: int, credential: str) -> socket.socket:
    """A connection that has asked for a WebSocket, as Chromium asks."""
    found = socket.create_connection(("127.0.0.1", port))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.sendall(
        f"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
        f"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nUpgrade: websocket\r\n"
        f"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nAuthorization: Bearer {credential}\r\n\r\n".encode()
    )
    return found


def admitted(found: socket.socket) -> socket.socket:
    """The WebSocket after its 101."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += found.recv(4096)
    if b" 101 " not in head[:20]:
        raise SystemExit(head.decode(errors="replace"))
    return found


class Served(NamedTuple):
    """A server: where it listens, its process, and the CPU seconds that it takes in a second without a client."""

    port: int
    pid: int
    idle: float

    def busy_us(self, work: Callable[[], object], count: int) -> float:
        """CPU microseconds of one of the `count` operations of `work`, beside those of an idle server."""
        began, at = cpu_s(self.pid), time.monotonic()
        work()
        return (cpu_s(self.pid) - began - self.idle * (time.monotonic() - at)) / count * 1e6


def idle_of(pid: int) -> float:
    """See `Served`."""
    began = cpu_s(pid)
    time.sleep(IDLE_S)
    return (cpu_s(pid) - began) / IDLE_S


def handshakes(port: int, credentials: list[str]) -> None:
    """Connections that are opened, and closed by the client; 20 arrive at a time."""
    for first in range(0, len(credentials), 20):
        arriving = [asked(port, credential) for credential in credentials[first : first + 20]]
        held = [admitted(one) for one in arriving]
        for one in held:
            one.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        for one in held:
            while one.recv(4096):
                pass
            one.close()
    time.sleep(0.1)  # the server's own end of the last ones


def handshake_us(served: Served, count: int) -> float:
    """CPU microseconds of a connection."""
    credentials = tokens(count)
    return served.busy_us(lambda: handshakes(served.port, credentials), count)


def message_us(served: Served, size: int, turns: int) -> float:
    """CPU microseconds of an echoed message."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(admitted(asked(served.port, one))) for one in tokens(20)]
        return served.busy_us(lambda: echo_us(sockets, served.pid, size, turns), turns * len(sockets))


def held_kb(port: int, pid: int, count: int) -> float:
    """Memory that a socket adds."""
    credentials = tokens(count)
    before = rss(pid)
    with contextlib.ExitStack() as stack:
        for credential in credentials:
            stack.enter_context(admitted(asked(port, credential)))
        time.sleep(1)
        return (rss(pid) - before) / count / 1024


def compared(what: str, unit: str, found: dict[str, list[float]]) -> None:
    """Print what `framed` and `guarded` cost more than `bare`, within the rounds."""
    bare = found["bare"]
    for which, costs in found.items():
        if which == "bare":
            continue
        more = [after - before for before, after in zip(bare, costs, strict=True)]
        print(
            f"{what:<18} bare {min(bare):7.1f}  {which} {min(costs):7.1f} {unit} (smallest)   more: "
            f"smallest to smallest {min(costs) - min(bare):+6.1f}, median {statistics.median(more):+6.1f} {unit} "
            f"({statistics.median(more) / statistics.median(bare):+.1%})",
            flush=True,
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--handshakes", type=int, default=60)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--held", type=int, default=3000)
    parser.add_argument("--ws", default="websockets-sansio", help="uvicorn's WebSocket library")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "application.py").write_text(APPLICATION)
        ports = {which: free_port() for which in ("bare", "framed", "guarded")}
        pids = {}
        for which, port in ports.items():
            words = ["--port", str(port), "--ws", options.ws, "--log-level", "error", "--no-access-log"]
            words += ["--ws-per-message-deflate", "false", "--ws-ping-interval", "3600"]
            env = SETTINGS | {
                "NARTHEX_DATA_DIR": str(folder / which),
                "PYTHONPATH": str(folder),
                "SERVED": which,
            }
            pids[which] = stack.enter_context(
                process([sys.executable, "-m", "uvicorn", "application:app", *words], folder, port, env)
            )
        servers = {}
        for which, port in ports.items():
            handshakes(port, tokens(200))  # imports, caches
            servers[which] = Served(port, pids[which], idle_of(pids[which]))
            print(
                f"{which:<18} {servers[which].idle * 1000:5.1f} ms CPU a second without a client", flush=True
            )
        found: dict[str, list[float]] = {which: [] for which in ports}
        for _ in range(options.rounds):
            for which, served in servers.items():
                found[which].append(handshake_us(served, options.handshakes))
        compared("handshake", "us", found)
        for size in (47, 1_000):
            found = {which: [] for which in ports}
            for _ in range(options.rounds):
                for which, served in servers.items():
                    found[which].append(message_us(served, size, options.turns))
            compared(f"message of {size} B", "us", found)
        each = {which: [held_kb(port, pids[which], options.held)] for which, port in ports.items()}
        compared(f"{options.held} held", "kB", each)


if __name__ == "__main__":
    main()
