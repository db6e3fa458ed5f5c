"""Types a page's commands for a cloud into a new project and a new cluster, which `cloud_project` plays.

Not here: commands that the reader's own machine runs (`walkthrough`). Rule: a page passes only if it needs each of its
lines; what only shows or waits (`rollout status`, `doctor`) is left out of that.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.docs import cloud_project
from tests.docs.blocks import blocks_of, command_lines
from tests.docs.walkthrough import SHELLS
from tests.timing import within

PLAYED: Final = ("gcloud", "aws", "docker", "kubectl", "terraform")
END: Final = b"\x1e\0"
WRITTEN_DOWN: Final = r"""
say() {
  local piped=
  IFS= read -r -d '' piped || true
  printf '%s\0' "$PWD" "$piped" "$@" $'\x1e' >>"$SAID"
}
""" + "".join(f'{name}() {{ say {name} "$@"; }}\n' for name in PLAYED)
"""Programs of clouds as functions: each notes its directory, its standard input and its words."""
SHOWS: Final = re.compile(
    r"\s*(for|done|cd|export NARTHEX_|narthex (check|doctor|gate)|terraform output)"
    r"|.*(rollout status|get ingress|describe-stacks|accounts describe)"
)
"""Lines that change nothing, or without which the page makes something else that is as complete."""


def cloud_lines(page: Path, program: str = "") -> list[str]:
    """The commands of a page that change a cloud or a cluster, in order; of its blocks with this program only."""
    return [
        line
        for block in blocks_of(page)
        if block.fate == "cloud" and block.language in SHELLS and not block.reason.startswith("it asks")
        if program in block.text
        for line in command_lines(block)
    ]


class Cloud:
    """A new project, a new cluster and a copy of the reader's directory for each list of commands.

    Bash types them. What it says to a program of a cloud is written down and played afterwards, in the same order: to
    start a program for each would take a hundred times as long.

    Attributes:
        here: the copy.
        state: of the project and the cluster after the last list.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._said = folder, programs / "cloud-said"
        self.here = programs / "cloud-here"
        self._programs = programs / "cloud-programs"
        self._programs.mkdir()
        self.state: dict[str, Any] = {}

    def program(self, name: str, script: str) -> None:
        """Put a shell script before the machine's own program of that name."""
        (self._programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self._programs / name).chmod(0o755)

    async def typed(self, lines: Sequence[str]) -> str:
        """The refusal of the commands; empty where all of them succeed."""
        self._said.write_bytes(b"")
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self._folder, self.here, symlinks=True)
        bash = await asyncio.create_subprocess_exec(
            *("bash", "-e", "-u", "-o", "pipefail", "-c", "\n".join([WRITTEN_DOWN, *lines])),
            cwd=self.here,
            env={
                "PATH": os.pathsep.join(
                    [str(self._programs), str(Path(sys.executable).parent), os.environ["PATH"]]
                ),
                "SAID": str(self._said),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, failed = await asyncio.wait_for(bash.communicate(), within(60))
        self.state = copy.deepcopy(cloud_project.NOTHING)
        try:
            for command in self._said.read_bytes().split(END)[:-1]:
                folder, stdin, *words = command.decode().split("\0")[:-1]
                cloud_project.act(self.state, words, folder=Path(folder), stdin=stdin)
        except (cloud_project.Refused, OSError) as refused:  # OSError: a file that the program would read
            return str(refused)
        return failed.decode() or "it failed" if bash.returncode else ""


async def needs_every_line(
    cloud: Cloud, lines: Sequence[str], is_made: Callable[[dict[str, Any]], bool], before: Sequence[str] = ()
) -> None:
    """All lines together make what the page promises, and without any one of them it is not made.

    `before` are commands of another page, which have made what this one begins with.
    """
    assert await cloud.typed([*before, *lines]) == ""
    assert is_made(cloud.state), cloud.state
    for number, line in enumerate(lines):
        if SHOWS.match(line):
            continue
        refused = await cloud.typed([*before, *lines[:number], ":", *lines[number + 1 :]])
        assert refused or not is_made(cloud.state), f"the page works without {line!r}"


def cluster_is_made(state: dict[str, Any]) -> bool:
    """Whether the second image runs, behind an ingress with its certificate."""
    namespace = state["namespaces"]["chat"]
    deployed: bool = namespace["deployments"]["chat"] == {"narthex": "registry.acme.com/chat:2"}
    return deployed and namespace["ingresses"] == ["chat"]


def cloud_run_is_made(state: dict[str, Any]) -> bool:
    """Whether any caller reaches the service under the domain."""
    service = state["services"]["chat"]
    reached = (service.get("invokers"), service.get("domain"))
    return reached == ([cloud_project.INVOKER, "allUsers"], "chat.acme.com")
