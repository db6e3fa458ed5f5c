"""The path of a user who has never seen narthex, from a clone to a chat in the browser, by README's commands.

Not here: pages of the documentation in an environment that has everything (`test_tutorials`). Rules: a fresh clone, an
empty virtual environment, pip and npm with the caches of this machine. The figure in README is the one that this test
prints; its bound is for CI's machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import expect

from narthex import client
from tests.acceptance.chat_page import chromium
from tests.docs.blocks import ROOT
from tests.docs.walkthrough import Walkthrough, followed
from tests.services import missing
from tests.timing import within

BOUND_S: Final = within(600)
"""Of each test: ten times the minute that the path may take on a quiet machine with warm caches."""
pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.timeout(BOUND_S)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The checkout of a newcomer, with nothing that was built here, and the moment at which the clone began."""
    if shutil.which("git") is None:
        missing("git", "apt-get install git")
    folder = tmp_path_factory.mktemp("newcomer") / "narthex"
    began = time.monotonic()
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    return folder, began


def start_page(folder: Path) -> Path:
    """README's "Start" as a page of its own: the environment of its sentence, then its block with two commands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Start\n")[2].partition("Then add your own agent")[0]
    (environment,) = re.findall(r"\(`(python3 -m venv [^`]+)`\)", section)
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert commands == "pip install . && narthex serve\n"
    page = folder / "start.md"
    page.write_text(
        f"```sh\n{environment}\n```\n\n"
        f"<!-- snippet: serves http://127.0.0.1:8000/readyz -->\n```sh\n{commands}```\n"
    )
    return page


async def test_from_a_clone_to_a_chat_in_the_browser(clone: tuple[Path, float]) -> None:
    """README's two commands in an empty environment; then a sign-in with any e-mail, and `help` is answered."""
    checkout, began = clone
    walk = Walkthrough(start_page(checkout.parent), checkout, install=True, env={"PATH": path_of(None)})
    walk.ready_s = BOUND_S
    # The Python of this suite, and not the one that the machine calls python3, which may be too old.
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    walk.program("python3", f'exec "{base}" "$@"')
    async with followed(walk), chromium() as browser:
        served_after_s = time.monotonic() - began
        page = await browser.new_page()
        await page.goto(walk.http)
        await page.get_by_label("E-mail").fill("ada@example.org")
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_label("Message", exact=True).fill("help")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".run .prose").first).to_contain_text(
            "concierge", timeout=within(30) * 1000
        )
        shown_after_s = time.monotonic() - began
        print(f"serves after {served_after_s:.1f} s, the answer is shown after {shown_after_s:.1f} s")
        assert shown_after_s < BOUND_S


async def test_an_agent_of_ones_own_by_the_tutorial(clone: tuple[Path, float]) -> None:
    """In the same environment, every command of the tutorial, its `pip install` too; the agent answers."""
    checkout, _ = clone
    programs = checkout / ".venv" / "bin"
    if not (programs / "narthex").exists():
        pytest.skip("the test before installs it")
    reader = checkout.parent / "reader"
    reader.mkdir()
    page = ROOT / "docs" / "tutorials" / "own-agent.md"
    walk = Walkthrough(page, reader, install=True, env={"PATH": path_of(programs)})
    walk.patience_s = BOUND_S
    async with followed(walk):
        token = (reader / "agents" / "token.txt").read_text().strip()
        async with client.connect(walk.ws, get_token=lambda: token) as ada:
            run = await ada.start_run("one three")
            await run.wait(within(30))
            assert run.text == "You sent **2** words; the longest is *three*."


def path_of(first: Path | None) -> str:
    """The machine's path without this test's own environment, `first` before it."""
    own = {str(Path(sys.executable).parent), str(Path(sys.prefix) / "bin")}
    rest = [part for part in os.environ["PATH"].split(os.pathsep) if part not in own]
    return os.pathsep.join([*([str(first)] if first else []), *rest])
