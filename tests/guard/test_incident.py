"""examples/incident: the same chat before and after `narthex.Guard`, under uvicorn, with its own end-to-end tests."""

from __future__ import annotations

import asyncio
import difflib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.program import clean_environment
from tests.docs.blocks import ROOT
from tests.timing import within

EXAMPLE = ROOT / "examples" / "incident"
THREE_LINES = [
    "import narthex",
    "    user = narthex.identity(socket).subject",
    'app = narthex.Guard(app, paths=["/ws"])',
]
WITHOUT_A_GUARD = """
@app.get("/ws/health")
def health() -> dict:
    return {"e2e_testing": {"auth_bypass_active": True}}

@app.post("/auth/e2e/test-auth")
def exchange() -> dict:
    return {"user": {"tenant": "default"}, "expires_in": 0}
"""


async def compared(example: Path) -> tuple[int, str]:
    """Exit code and output of the one command."""
    done = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, str(example / "compare.py")),
        capture_output=True,
        text=True,
        env=clean_environment({}),
        timeout=within(60),
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def rows(output: str) -> dict[str, list[str]]:
    """The tables' rows: the first cell, and the others."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {first: rest for first, *rest in cells if rest}


@pytest.mark.acceptance
async def test_all_seven_fail_before_and_pass_after_and_the_others_stay_out() -> None:
    """403 and then 500 before; afterwards the seven pass by proof of the key, and each refusal has its reason."""
    code, output = await compared(EXAMPLE)
    assert code == 0, output
    found = rows(output)
    seven = [cells for name, cells in found.items() if name.endswith(("flow", "sockets", "execution"))]
    seven += [found["lifecycle_monitoring"], found["pipeline_error_handling"]]
    assert sorted(seven) == [["403", "passed"]] * 3 + [["500", "passed"]] * 4
    assert found["a stranger: no credential"] == ["403", "401 auth_required"]
    assert found["a forged token"] == ["500", "401 token_invalid"]
    assert found["a wrong key"] == ["403", "401 e2e_key_wrong"]
    assert found["ann, a customer with a valid token"] == ["500", "admitted as ann"]
    assert found["a test, by proof of the key"] == ["403", "admitted as e2e:compare"]
    assert found["four variables and no key on the server: a stranger"] == ["401 auth_required"]
    assert found["four variables and no key on the server: a test"] == ["403 e2e_not_allowed_here"]


@pytest.mark.acceptance
@pytest.mark.soak
async def test_the_command_notices_a_chat_that_admits_everybody(tmp_path: Path) -> None:
    """Exit code 1 and the names of the rows, when the guard is left out."""
    example = tmp_path / "incident"
    shutil.copytree(EXAMPLE, example)
    after = (example / "after.py").read_text()
    after = after.replace("narthex.identity(socket).subject", "'anybody'").replace(THREE_LINES[2], "")
    after += WITHOUT_A_GUARD
    (example / "after.py").write_text(after)
    code, output = await compared(example)
    assert code == 1, output
    assert "NOT AS EXPECTED: a stranger: no credential, a forged token, a wrong key" in output


def test_three_lines_are_the_whole_difference() -> None:
    """Beside its docstring, the guarded chat has three lines that the old one has not; README shows them."""
    before, after = (
        re.sub(r'^"""[^"]*"""', "", (EXAMPLE / name).read_text()).splitlines()
        for name in ("before.py", "after.py")
    )
    added = [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ") and line.strip("+ ")]
    assert sorted(added) == sorted(THREE_LINES)
    text = (EXAMPLE / "README.md").read_text()
    assert all(line in text for line in THREE_LINES)
