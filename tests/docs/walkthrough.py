"""Follows a page as a reader does: writes its files, runs its commands in order, keeps its servers running.

Not here: what the page promises (each test checks it while the servers run). Rules:

- A block runs in a terminal (a bash with `set -e -o pipefail`). A terminal keeps directory and variables from block to
  block. A block with the marker `serves` occupies its terminal; the next block runs in a new one, in the same
  directory, without the variables of the others.
- A block of another language whose first line is a comment with a file's name is written there.
- `console` blocks show output: each shown line must be printed, in this order; `…` stands for anything.
- Commands run as they stand, but for: ports, which are free ones here; hosts in `names`; and `pip install`, which
  checks that everything it would install is there (tests/docs/pip.py), because the newcomer's test installs for real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import httpx2

from narthex.e2e.children import free_port
from tests.acceptance.program import clean_environment
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.timing import within

SHELLS: Final = ("sh", "console")
NOT_RUN: Final = ("skip", "parse", "cloud")
_FILE: Final = re.compile(r"^(?:#|//|<!--|--) ?(?P<name>[\w./-]+\.\w+)(?: -->)?\n")
_PORT: Final = re.compile(r"(?:127\.0\.0\.1|localhost):(\d{4,5})\b")
_TEXTS: Final = (".py", ".ts", ".tsx", ".js", ".mjs", ".json", ".html", ".toml", ".md", ".yaml", ".conf")


class Walkthrough:
    """One page that is being followed.

    Attributes:
        folder: the directory in which the reader begins.
        ports: documented port → the port that stands for it here.
        printed: the output of each command block so far, in order.
        patience_s: how long one block of commands may take.
        ready_s: how long a server may take until it answers.
        fresh_terminals: each block is typed in a new terminal, because a reader follows one of them.
    """

    def __init__(
        self,
        page: Path,
        folder: Path,
        *,
        names: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        install: bool = False,
    ) -> None:
        self.page = page
        self.folder = folder
        self.blocks = blocks_of(page)
        self.printed: list[str] = []
        found = {"8000", *_PORT.findall(page.read_text(encoding="utf-8"))}
        self.ports = {port: str(free_port()) for port in sorted(found)}
        self._names = dict(names or {})
        self._programs = folder.parent / f"{folder.name}-programs"
        self.patience_s = within(90)
        self.ready_s = within(40)
        self.fresh_terminals = False
        self._terminals = 0
        self._servers: list[asyncio.subprocess.Process] = []
        self._groups: list[int] = []
        self._keyboards: list[int] = []
        self._install = install
        self._env = dict(env or {})

    @property
    def http(self) -> str:
        """The base URL of the documented 127.0.0.1:8000."""
        return f"http://127.0.0.1:{self.ports['8000']}"

    @property
    def ws(self) -> str:
        """The WebSocket URL below it."""
        return f"ws://127.0.0.1:{self.ports['8000']}/ws"

    def here(self, text: str) -> str:
        """A text of the page with this test's ports and names."""
        for written, meant in self._names.items():
            text = text.replace(written, meant)
        return re.sub(r"\b\d{4,5}\b", lambda found: self.ports.get(found[0], found[0]), text)

    def copy(self, source: Path, *names: str) -> None:
        """Give the reader files of the checkout, at the same place below `folder`."""
        for name in names:
            found = [source / name] if (source / name).is_file() else sorted((source / name).rglob("*"))
            for path in found:
                if not path.is_file() or {"node_modules", "__pycache__"} & set(path.parts):
                    continue
                target = self.folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix in _TEXTS:
                    target.write_text(self.here(path.read_text(encoding="utf-8")), encoding="utf-8")
                else:
                    target.write_bytes(path.read_bytes())

    def program(self, name: str, script: str) -> None:
        """Put a shell script before the machine's own program of that name."""
        self._state()
        (self._programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self._programs / name).chmod(0o755)

    def token(self, place: str, *words: str) -> str:
        """The output of `narthex token` with these words in a directory below `folder`."""
        done = subprocess.run(
            [sys.executable, "-m", "narthex", "token", *words],
            cwd=self.folder / place,
            env=clean_environment({}),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    async def follow(self) -> None:
        """Go through the page from its beginning to its end."""
        self._state().touch()
        self._place().write_text(str(self.folder))
        for block in self.blocks:
            if block.fate in NOT_RUN:
                continue
            if block.language in SHELLS:
                if self.fresh_terminals:
                    self._terminals += 1
                    self._state().touch()
                await self._typed(block)
                continue
            named = _FILE.match(block.text)
            if block.fate == "file" or named:
                name = named["name"] if named and block.fate != "file" else block.reason
                (Path(self._place().read_text().strip()) / name).write_text(self.here(block.text))

    async def end(self) -> None:
        """Ctrl-C in each terminal, then the end of what commands left behind."""
        for server in reversed(self._servers):
            if server.returncode is None:
                _signal(server.pid, signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait(), within(20))
        for group in self._groups:
            _signal(group, signal.SIGKILL)
        for server in self._servers:
            await server.wait()
        for keyboard in self._keyboards:
            os.close(keyboard)

    # -- a block of commands --------------------------------------------------------------------------------------

    async def _typed(self, block: Block) -> None:
        if block.language == "console":
            for command, shown in _console(block.text):
                printed = await self._run(block, command)
                missing = _not_printed(self.here(shown), printed)
                assert missing is None, f"{block.name}: {command}: not printed: {missing!r} in\n{printed}"
            return
        if block.fate == "serves":
            await self._serve(block)
            return
        await self._run(block, block.text)

    async def _run(self, block: Block, text: str) -> str:
        log = self._programs / f"{len(self.printed)}.out"
        process = await self._spawn(text, log)
        try:
            code = await asyncio.wait_for(process.wait(), self.patience_s)
        except TimeoutError:
            _signal(process.pid, signal.SIGKILL)
            await process.wait()
            code = -1
        if re.search(r"(?<!&)&\s*$", text, re.MULTILINE):  # a program in the background outlives the block
            self._groups.append(process.pid)
        printed = log.read_text(errors="replace")
        self.printed.append(printed)
        assert code == 0, f"{block.name}: exit code {code}\n{text}\n{printed[-4000:]}"
        return printed

    async def _serve(self, block: Block) -> None:
        log = self._programs / f"{len(self.printed)}.out"
        end, keyboard = os.pipe()  # open until Ctrl-C: some servers stop when a terminal's input ends
        try:
            process = await self._spawn(block.text, log, keyboard=end)
        finally:
            os.close(end)
        self._keyboards.append(keyboard)
        self._servers.append(process)
        self._groups.append(process.pid)
        self.printed.append(str(log))
        url, _, status = self.here(block.reason).partition(" ")
        async with httpx2.AsyncClient(trust_env=False, timeout=within(10)) as web:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.ready_s):
                    while process.returncode is None:
                        with contextlib.suppress(httpx2.HTTPError):
                            if (await web.get(url)).status_code == int(status or 200):
                                break
                        await asyncio.sleep(0.05)
                    else:
                        raise TimeoutError
                    self._terminals += 1  # the next block is typed in a new terminal
                    self._state().touch()
                    return
        printed = log.read_text(errors="replace")[-4000:]
        raise AssertionError(
            f"{block.name}: {url} does not answer (exit code {process.returncode})\n{printed}"
        )

    async def _spawn(
        self, text: str, log: Path, keyboard: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        state, place = self._state(), self._place()
        script = f"""
        . {state} 2>/dev/null || true
        cd "$(cat {place})"
        set -e -o pipefail
        trap 'pwd > {place}' DEBUG
        {{
{self.here(text)}
        }}
        declare -p | grep -v '^declare -[a-zA-Z]*r' > {state}
        """
        with log.open("wb") as out:
            return await asyncio.create_subprocess_exec(
                "bash",
                "-c",
                script,
                stdin=keyboard,
                stdout=out,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        tools = self._env.get("PATH") or os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        port = self.ports["8000"]
        given = {"NARTHEX_PORT": port, "UVICORN_PORT": port, "NO_COLOR": "1"} | self._env
        return clean_environment(given | {"PATH": f"{self._programs}{os.pathsep}{tools}"})

    def _state(self) -> Path:
        if not self._programs.exists():
            self._programs.mkdir()
            if not self._install:
                self.program("pip", f'exec "{sys.executable}" "{ROOT}/tests/docs/pip.py" "$@"')
        return self._programs / f"terminal-{self._terminals}"

    def _place(self) -> Path:
        return self._programs / "directory"


@contextlib.asynccontextmanager
async def followed(walk: Walkthrough) -> AsyncIterator[Walkthrough]:
    """The page, followed to its end, with its servers running."""
    try:
        await walk.follow()
        yield walk
    finally:
        await walk.end()


def _signal(group: int, number: signal.Signals) -> None:
    """To the process group that a block began; it may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _console(text: str) -> list[tuple[str, str]]:
    """The commands of a block with output, each with the lines shown below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        match = re.match(r"((?:[^\n]*\\\n)*[^\n]*\n?)(.*)", part, re.DOTALL)
        assert match is not None
        found.append((match[1], match[2]))
    return found


def _not_printed(shown: str, printed: str) -> str | None:
    """The first shown line that was not printed in its turn; None: all were."""
    rest = printed.splitlines()
    for line in shown.splitlines():
        if not line.strip() or line.strip() == "…":
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in line.rstrip().split("…")))
        at = next((index for index, found in enumerate(rest) if pattern.fullmatch(found.rstrip())), None)
        if at is None:
            return line
        rest = rest[at + 1 :]
    return None
