"""An example's README, followed in a directory that has the examples as the checkout has them.

Not here: the rules of following (`tests/docs/walkthrough`). The table under "You should see" has a message and its
answer in each row; `rows` reads it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from narthex import client
from tests.docs.blocks import ROOT
from tests.docs.walkthrough import Walkthrough, followed
from tests.timing import within

_ROW: Final = re.compile(r"^\| `(?P<message>[^`]+)` \| (?P<answer>.+) \|$", re.MULTILINE)


@contextlib.asynccontextmanager
async def example(name: str, tmp_path: Path, patience_s: float = 0) -> AsyncIterator[Walkthrough]:
    """The example after all its commands, with its servers running."""
    walk = reading(name, tmp_path)
    walk.patience_s = patience_s or walk.patience_s
    async with followed(walk):
        yield walk


def reading(name: str, tmp_path: Path) -> Walkthrough:
    """The example before its first command."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    walk = Walkthrough(ROOT / "examples" / name / "README.md", folder)
    walk.copy(ROOT, f"examples/{name}")
    return walk


def rows(walk: Walkthrough) -> dict[str, str]:
    """The table of messages and answers."""
    return {found["message"]: found["answer"] for found in _ROW.finditer(walk.page.read_text())}


def connected(walk: Walkthrough, name: str, subject: str) -> client.Gateway:
    """A user of the example's gateway."""
    return client.connect(walk.ws, get_token=lambda: walk.token(f"examples/{name}", "--sub", subject))


async def answered(gateway: client.Gateway, text: str, thread_id: str | None = None) -> client.Run:
    """A message and the whole run that answers it."""
    run = await gateway.start_run(text, thread_id=thread_id)
    await run.wait(within(20))
    assert run.proof.complete
    return run
