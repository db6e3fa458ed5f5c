"""Unmodified SDKs as child processes that take JSON lines: one program a language, one vocabulary for all of them.

To a driver, one line each: `{"n": 1, "op": "connect", "url", "token", "headers", "emulated_headers", "get_token"}`,
`subscribe` (`channel`, `since`, `delta`), `unsubscribe`, `rpc` (`method`, `data`), `publish`, `presence`,
`presence_stats`, `history` (`limit`), `disconnect`, and `{"op": "token", "token"}` as the answer to `token_wanted`.

From a driver: `{"n": 1, "ok": …}` or `{"n": 1, "error": {"code", "message", "temporary"}}`, and events: `connecting`,
`connected`, `disconnected`, `server_subscribed`, `server_publication`, `subscribed`, `unsubscribed`,
`subscription_error`, `publication`, `join`, `leave`, `token_wanted`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from tests.acceptance.scripts import LINE_BYTES, WEB, node_with
from tests.services import missing
from tests.timing import within

HERE: Final = Path(__file__).parent
BUILD_S: Final = 300.0  # downloads included
JAVA_CHECKOUT: Final = os.environ.get("CENTRIFUGE_JAVA", "")
"""A checkout of centrifuge-java; empty: the newest release that Maven Central has here, 0.4.1."""
WAIT_S: Final = within(15)


class SdkError(Exception):
    """A command that the SDK reported as failed."""

    def __init__(self, code: int, message: str, temporary: bool) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.temporary = temporary


@cache
def go_driver() -> str:
    """The Go driver's binary, built once."""
    if shutil.which("go") is None:
        missing("go", "install Go 1.25 or newer")
    found = Path(mkdtemp(prefix="narthex-go-")) / "driver"
    build("go", "build", "-o", str(found), "driver.go")
    return str(found)


@cache
def java_classes() -> str:
    """The class path of the Java driver: the SDK and its dependencies by Maven, and the compiled driver."""
    if shutil.which("mvn") is None or shutil.which("javac") is None:
        missing("mvn or javac", "apt-get install maven default-jdk-headless")
    found = Path(mkdtemp(prefix="narthex-java-"))
    build("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={found}")
    path = from_checkout(found) if JAVA_CHECKOUT else f"{found}/*"
    build("javac", "-cp", path, "-d", str(found), "Driver.java")
    return f"{found}:{path}"


def from_checkout(libraries: Path) -> str:
    """The class path of the SDK that `JAVA_CHECKOUT` has, built by Maven. `libraries` has the driver's own."""
    own = Path(mkdtemp(prefix="narthex-java-own-"))
    options = (f"-Dcheckout={JAVA_CHECKOUT}", f"-Dtarget={own}", f"-DoutputDirectory={own}/libraries")
    build("mvn", "-q", "-B", "-f", "java_suite/pom.xml", *options, "compile", "dependency:copy-dependencies")
    (gson,) = libraries.glob("gson-*.jar")
    return f"{own}/classes:{own}/libraries/*:{gson}"


def build(*words: str) -> None:
    """Run a build step in this directory."""
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, f"{words[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}"


COMMANDS: Final[dict[str, Callable[[], list[str]]]] = {
    "java": lambda: ["java", "-cp", java_classes(), "-XX:TieredStopAtLevel=1", "-Xshare:auto", "Driver"],
    "go-protobuf": lambda: [go_driver(), "protobuf"],
    "python-protobuf": lambda: [sys.executable, str(HERE / "driver.py"), "protobuf"],
    "js-protobuf": lambda: [node_with("centrifuge"), str(HERE / "driver.mjs"), "protobuf"],
    "js-json": lambda: [node_with("centrifuge"), str(HERE / "driver.mjs"), "json"],
}
"""Every SDK that runs here, in protobuf; that of JavaScript in both. Other tests run the Python SDK in JSON."""


class Sdk:
    """One client of one SDK.

    Attributes:
        events: every event so far, in order.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._replies: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._changed = asyncio.Event()
        self._ended = False
        self.events: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = json.loads(raw)
            if "n" in line:
                self._replies[line["n"]] = line
            else:
                self.events.append(line)
            self._changed.set()
        self._ended = True
        self._changed.set()

    def tell(self, **line: Any) -> None:
        """Write one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    async def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait for the line that makes `holds` true; returns its value."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not (found := holds()):
                    assert not self._ended, f"the driver ended before {what}: {self.events[-5:]}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} in {WAIT_S} s; the last events: {self.events[-8:]}") from None
        return found

    async def call(self, op: str, **line: Any) -> Any:
        """Run one operation; raises `SdkError`."""
        self._number += 1
        number = self._number
        self.tell(n=number, op=op, **line)
        reply = await self.until(lambda: self._replies.get(number), f"answer to {op}")
        if "error" in reply:
            raise SdkError(**reply["error"])
        return reply["ok"]

    async def rpc(self, method: str, **params: Any) -> Any:
        """The result of an RPC."""
        return await self.call("rpc", method=method, data=params)

    def of(self, kind: str, **members: Any) -> list[dict[str, Any]]:
        """The events of a kind so far, with these members."""
        return [
            event
            for event in self.events
            if event["event"] == kind and all(event.get(name) == value for name, value in members.items())
        ]

    async def event(self, kind: str, count: int = 1, **members: Any) -> dict[str, Any]:
        """The `count`th event of a kind with these members, once it has come."""
        found: list[dict[str, Any]] = await self.until(
            lambda: len(self.of(kind, **members)) >= count and self.of(kind, **members),
            f"{kind} number {count} with {members}",
        )
        return found[count - 1]


@contextlib.asynccontextmanager
async def sdk(name: str) -> AsyncIterator[Sdk]:
    """A driver's process; it ends when its input ends."""
    command = await asyncio.to_thread(COMMANDS[name])
    process = await asyncio.create_subprocess_exec(
        *command, cwd=WEB, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES
    )
    found = Sdk(process)
    try:
        await found.event("ready")
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), within(5))
        except TimeoutError:
            process.kill()
            await process.wait()
        await found._reading
