"""Each command of README and docs is run by a test: by one that follows its page, or by the one that its marker names.

Not here: how a page is followed (`walkthrough`), whether options exist (`test_snippets`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from narthex.testing import Issuer
from tests.acceptance.program import running
from tests.docs.blocks import ROOT, Block, blocks, command_lines, narthex_words
from tests.docs.walkthrough import Walkthrough, followed
from tests.timing import within

FOLLOWED: Final = {
    "README.md": "tests/docs/test_newcomer.py",
    "docs/edge.md": "tests/docs/test_snippets.py",
    "docs/environments.md": "tests/docs/test_commands.py",
    "docs/operations.md": "tests/docs/test_snippets.py",
    "docs/runbooks/README.md": "tests/docs/test_commands.py",
}
"""Page → the test that runs its blocks without a marker, beside the tutorials and the examples."""
OWN_TESTS: Final = ("docs/tutorials/", "examples/")
BY_SNIPPETS: Final = {"docs/authentication.md": "narthex token | narthex token inspect"}
"""A block of a page that `test_snippets` runs alone."""
TEST: Final = re.compile(r"(?:tests/[\w/]+\.py|\.ci/run)")


def commanding(block: Block) -> bool:
    """Whether a reader types it."""
    typed = any(narthex_words(line) for line in command_lines(block)) if not block.language else True
    return block.language in ("sh", "console", "") and typed


@pytest.mark.parametrize("block", [one for one in blocks() if commanding(one)], ids=lambda block: block.name)
def test_every_command_is_run(block: Block) -> None:
    """A page is followed, or the marker of its block names a test that exists."""
    if block.page.startswith(OWN_TESTS) or block.fate in ("cloud", "skip"):
        return
    if block.fate == "parse":
        named = TEST.findall(block.reason)
        assert named, f"{block.name}: which test runs it?"
        assert all((ROOT / name).exists() for name in named), f"{block.name}: {named}"
        return
    alone = BY_SNIPPETS.get(block.page, "never")
    assert block.page in FOLLOWED or alone in block.text, f"{block.name}: run it, or name the test that does"


@pytest.mark.acceptance
@pytest.mark.timeout(within(180))
async def test_environments(tmp_path: Path) -> None:
    """Each environment's settings pass the check; the gates open at a staging under test and at a production."""
    issuer = Issuer()
    folder = tmp_path / "reader"
    for name in ("reader", "staging", "production"):
        (tmp_path / name).mkdir()
    (folder / "token.txt").write_text(issuer.valid("ada", ttl_s=3600))
    under_test = issuer.environ | {"ENVIRONMENT": "staging", "E2E_OAUTH_SIMULATION_KEY": "k" * 40}
    real = issuer.environ | {"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "chat.example.com"}
    loopback = ("--host", "127.0.0.1")
    async with (
        running(tmp_path / "staging", under_test, loopback) as staging,
        running(tmp_path / "production", real, loopback) as production,
    ):
        names = {
            "gate https://staging.example.com": f"gate {staging.http}",
            "gate https://chat.example.com": f"gate {production.http}",
            "/run/secrets/e2e-key": str(folder / "e2e-key"),
        }
        (folder / "e2e-key").write_text("k" * 40)
        walk = Walkthrough(ROOT / "docs" / "environments.md", folder, names=names)
        walk.fresh_terminals = True  # a reader is in one environment at a time
        async with followed(walk):
            printed = walk.printed
            assert len(printed) == 13
            assert "Admitted here as default/ada" in printed[1]
            assert "testing" in printed[3]
            assert "iss https://id.example.com" in printed[6]  # staging
            assert "iss https://id.example.com" in printed[10]  # production
            assert all("gate open" in said for said in printed[11:])
        # docs/testing.md's line for production, at the same one.
        (folder / "probe.token").write_text(issuer.valid("prober", ttl_s=3600, tenant="canary"))
        tested = Walkthrough(
            ROOT / "docs" / "testing.md", folder, names={"https://chat.example.com": production.http}
        )
        tested.blocks = [
            block._replace(fate="") for block in tested.blocks if "--allow-production" in block.text
        ]
        async with followed(tested):
            assert "success rate 100.0%" in tested.printed[0]


@pytest.mark.acceptance
async def test_runbooks(tmp_path: Path) -> None:
    """The rules are written with the thresholds of the page, and listed."""
    folder = tmp_path / "reader"
    folder.mkdir()
    walk = Walkthrough(ROOT / "docs" / "runbooks" / "README.md", folder)
    async with followed(walk):
        assert "NarthexDown" in "".join(walk.printed)
        assert "alert: NarthexDown" in (folder / "narthex.yml").read_text()
