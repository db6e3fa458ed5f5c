"""A page is followed as a reader follows it: what fails for a reader fails here, with the place in the page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks_of
from tests.docs.walkthrough import Walkthrough, followed
from tests.timing import within


async def follow(tmp_path: Path, text: str) -> list[str]:
    """What the commands of a page printed."""
    page, folder = tmp_path / "page.md", tmp_path / "reader"
    page.write_text(text)
    folder.mkdir()
    walk = Walkthrough(page, folder)
    walk.ready_s = within(10)
    async with followed(walk):
        return list(walk.printed)


async def test_a_terminal_keeps_its_directory_and_variables(tmp_path: Path) -> None:
    """From block to block; a file is written where the reader is."""
    page = "```sh\nmkdir here\ncd here\nname=ada\n```\n\n```python\n# one.py\nprint('file')\n```\n\n"
    page += "```sh\necho $name\npython one.py\n```\n"
    assert await follow(tmp_path, page) == ["", "ada\nfile\n"]


async def test_a_server_keeps_its_terminal(tmp_path: Path) -> None:
    """Later blocks talk to it, from its directory and without its variables; a free port stands for the page's."""
    serve = "mkdir www\ncd www\nname=ada\necho hello > hello\npython -m http.server --bind 127.0.0.1 8000\n"
    page = f"<!-- snippet: serves http://127.0.0.1:8000/hello -->\n```sh\n{serve}```\n"
    page += (
        '\n```console\n$ curl -s http://127.0.0.1:8000/hello\nhello\n$ echo "[$name]" && ls\n[]\nhel…\n```\n'
    )
    printed = await follow(tmp_path, page)
    assert printed[1:] == ["hello\n", "[]\nhello\n"]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```sh\nfalse\necho after\n```\n", "page.md:1: exit code 1"),
        ("```sh\nfalse | cat\n```\n", "page.md:1: exit code 1"),
        ("```console\n$ echo one\ntwo\n```\n", "not printed: 'two'"),
        ("```console\n$ printf 'b\\na\\n'\na\nb\n```\n", "not printed: 'b'"),
        ("<!-- snippet: serves http://127.0.0.1:8000/ -->\n```sh\ntrue\n```\n", "does not answer"),
        ("```sh\npip install no-such-package-here\n```\n", "no-such-package-here is not installed here"),
        ("```sh\npip install '.[nonesuch]'\n```\n", "no extra 'nonesuch'"),
        ("```sh\npip install 'fastapi<0.1'\n```\n", "fastapi<0.1 is asked for"),
    ],
    ids=["command", "pipe", "output", "order", "server", "package", "extra", "version"],
)
async def test_what_fails_for_a_reader_fails_the_test(page: str, said: str, tmp_path: Path) -> None:
    """A failing command, output that is not printed or not in its order, a server that ends, a missing package."""
    with pytest.raises(AssertionError, match=r"page\.md") as failed:
        await follow(tmp_path, page)
    assert said in str(failed.value)


def test_blocks_that_are_not_run_are_marked(tmp_path: Path) -> None:
    """A marker's reason reaches the block; a block without one is run."""
    page = tmp_path / "page.md"
    page.write_text("<!-- snippet: cloud it needs a cluster -->\n```sh\nkubectl\n```\n\n```sh\ntrue\n```\n")
    assert [(block.fate, block.reason) for block in blocks_of(page)] == [
        ("cloud", "it needs a cluster"),
        ("", ""),
    ]


def test_pip_installs_nothing(tmp_path: Path) -> None:
    """It accepts what is here already, extras included."""
    words = [
        sys.executable,
        str(ROOT / "tests" / "docs" / "pip.py"),
        "install",
        "-q",
        ".[client,reload]",
        "fastapi>=0.1",
    ]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []
