"""A run imports nothing: where no more files may be opened, an import fails and the run with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.program import clean_environment
from tests.timing import within

SCRIPT = """
import asyncio, sys
from pathlib import Path
from narthex.testing import gateway
from tests.acceptance.sdk import person

async def main():
    async with gateway(Path(sys.argv[1])) as running:
        token = running.token("ada")
        before = set(sys.modules)
        async with person(running.ws, token) as ada:
            for text in ("hello", "show me the health", "who am I", "echo x"):
                run = await ada.rpc("run.start", text=text, client_message_id=text)
                while (await ada.rpc("run.get", run_id=run["run_id"]))["state"] in ("queued", "running"):
                    await asyncio.sleep(0.05)
        print("imported:", *sorted(name for name in set(sys.modules) - before if not name.startswith("centrifuge")))

asyncio.run(main())
"""


def test_a_run_imports_nothing(tmp_path: Path) -> None:
    """From the handshake to the end of a run, the digest included."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=within(60),
        env=clean_environment({}),
        cwd=Path(__file__).parents[2],
    )
    assert "imported:\n" in done.stdout, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
