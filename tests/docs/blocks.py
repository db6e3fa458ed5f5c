"""The fenced blocks of README and docs, each with its place, its language and its marker.

A marker is a comment on the line before the fence:

    <!-- snippet: skip REASON -->        it is shown and not run: output, a fragment of a larger file
    <!-- snippet: parse REASON -->       its command lines are understood and not run: they need a system of one's own
    <!-- snippet: cloud REASON -->       as parse; the system is a cloud or a cluster (tutorials: it is played)
    <!-- snippet: serves URL [CODE] -->  its last command keeps running; it is ready when the URL answers 200 (CODE)
    <!-- snippet: file NAME -->          it is a file's content, in a language without comments

Rules: a block without a marker is run by its language's runner; generated pages are their generator's to test.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
GENERATED: Final = frozenset(
    {"docs/troubleshooting.md", "docs/asyncapi.md", "docs/openapi.md", "docs/cli.md"}
)
_BLOCK: Final = re.compile(
    r"^(?:<!-- snippet: (?P<fate>skip|parse|cloud|serves|file) (?P<reason>[^\n]*?) -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block. `fate` is empty or the marker's first word, `reason` the rest of it."""

    page: str
    line: int
    language: str
    text: str
    fate: str
    reason: str

    @property
    def name(self) -> str:
        """For a test's id."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of prose."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found += [ROOT / "web" / "README.md", ROOT / "web" / "packages" / "client" / "README.md"]
    found += sorted((ROOT / "examples").glob("*/README.md"))
    return [page for page in found if page.relative_to(ROOT).as_posix() not in GENERATED]


def blocks(*languages: str) -> list[Block]:
    """The blocks of these languages (all without any), in order."""
    return [
        block for page in pages() for block in blocks_of(page) if not languages or block.language in languages
    ]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of one page, in order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    return [
        Block(
            name,
            text[: match.start("text")].count("\n"),
            match["language"],
            match["text"],
            match["fate"] or "",
            (match["reason"] or "").strip(),
        )
        for match in _BLOCK.finditer(text)
    ]


def command_lines(block: Block) -> list[str]:
    """The shell commands of a block: lines after `$ ` where it shows output, else every line that is not a comment."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def narthex_words(line: str) -> list[list[str]]:
    """The words of each `narthex …` (or runner) in a command line, without its variables, pipes and comments."""
    found: list[list[str]] = []
    line = re.sub(r"\$\([^)]*\)", "value", line)
    for part in re.split(r"\|\||&&|\||;", _without_comment(line)):
        words = shlex.split(part)
        while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
            words.pop(0)
        if words[:2] == ["python", "tests/unified_test_runner.py"]:
            words = ["narthex", "test", *words[2:]]
        if words and words[0] == "narthex":
            found.append(words[1:])
    return found


def _without_comment(line: str) -> str:
    return re.sub(r"\s#\s.*$", "", line)
