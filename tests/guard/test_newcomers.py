"""docs/guard.md as a newcomer follows it with each framework, and with a server of another language."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.docs.blocks import ROOT, Block, blocks_of
from tests.docs.walkthrough import Walkthrough, followed
from tests.services import missing
from tests.timing import within

pytestmark = pytest.mark.acceptance
PAGE: Final = ROOT / "docs" / "guard.md"
TRY: Final = Block(PAGE.name, 0, "console", "$ python try.py\nann: hello\n", "", "")


def block_of(beginning: str) -> Block:
    """The one block of the page that contains this text, to be run as it stands."""
    (found,) = [block for block in blocks_of(PAGE) if beginning in block.text]
    return found._replace(fate="", reason="")


def typed(command: str) -> Block:
    """A command that the reader knows already."""
    return Block(PAGE.name, 0, "sh", f"{command}\n", "", "")


def framework(beginning: str) -> Callable[[], list[Block]]:
    """The page's first steps with the application of another section."""
    return lambda: [block_of(beginning), block_of("uvicorn chat:app &\nexport TOKEN")]


def channels() -> list[Block]:
    """The same in a Django project."""
    first = block_of("uvicorn chat:app &\nexport TOKEN")
    start = block_of("uvicorn mysite.asgi:application").text
    return [
        typed("django-admin startproject mysite ."),
        block_of("from channels.routing"),
        first._replace(text=first.text.replace("uvicorn chat:app &\n", start)),
    ]


def node() -> list[Block]:
    """A Node server with its one package, `narthex guard` before it, and the page's secret and token for both."""
    packages = ROOT / "web" / "node_modules"
    if shutil.which("node") is None or not (packages / "ws").is_dir():
        missing("node and its package ws", "apt-get install nodejs, and npm --prefix web ci")
    first = block_of("uvicorn chat:app &\nexport TOKEN")
    start = block_of("narthex guard --upstream ws://127.0.0.1:9000").text
    return [
        typed(f"ln -s {packages} node_modules"),
        block_of("// server.mjs"),
        first._replace(text=first.text.replace("uvicorn chat:app &\n", start)),
    ]


@pytest.mark.parametrize(
    "steps",
    [
        # In CI tests/docs/test_tutorials.py follows the same steps.
        pytest.param(framework("from fastapi import FastAPI"), marks=pytest.mark.soak),
        framework("from starlette.routing import WebSocketRoute"),
        framework("from quart import"),
        channels,
        node,
    ],
    ids=["fastapi", "starlette", "quart", "channels", "node"],
)
async def test_the_page_from_its_first_file_to_an_answer(
    steps: Callable[[], list[Block]], tmp_path: Path
) -> None:
    """The files and commands of the page, in a directory of the reader's: its client gets its answer, and why not."""
    reader = tmp_path / "reader"
    reader.mkdir()
    walk = Walkthrough(PAGE, reader)
    walk.blocks = steps()
    async with followed(walk):
        async with asyncio.timeout(walk.ready_s), httpx2.AsyncClient(trust_env=False) as web:
            while not await ready(web, walk.http):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.05)
        walk.blocks = [block_of("# try.py"), TRY, block_of("curl -s http://127.0.0.1:8000/ws/preflight")]
        await walk.follow()


async def ready(web: httpx2.AsyncClient, http: str) -> bool:
    """Whether the server has started."""
    try:
        return (await web.get(f"{http}/readyz", timeout=within(5))).status_code == 200
    except httpx2.HTTPError:
        return False
