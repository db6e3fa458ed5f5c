"""One of three gateways is frozen for 30 s and then continues as if nothing had happened: it corrupts nothing.

A machine that swaps, a VM that is moved, a container that is throttled. Others take over its runs meanwhile; its
pending writes, and runs that it believes to own, must not reach the log when it continues.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.fleet import fleet
from tests.campaigns.follower import SERVED, Follower, attending, start_run, token
from tests.campaigns.load import Load, Verdict, under_load
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.soak, pytest.mark.timeout(600)]

RATE: Final = float(os.environ.get("NARTHEX_TEST_RATE", "300"))
PAUSE_S: Final = 30.0
PATIENCE_S: Final = 5.0  # of a caller whose gateway does not respond; then it uses another
AGENTS: Final = ("steady", "again")
RUN_S: Final = within(
    20
)  # on a slow machine minutes may pass until the pause, and runs that are over prove nothing


async def test_a_gateway_that_stood_still_corrupts_nothing(tmp_path: Path) -> None:
    """Publishes, sockets and runs on it and on the others: all present once, in order, every run verified."""
    arguments = tuple(word for name in AGENTS for word in ("--agent", f"tests.campaigns.agents:{name}"))
    async with fleet(tmp_path, **SERVED) as built:
        gateways = await built.gateways(3, *arguments)
        load = Load(gateways, channels=6, rate=RATE, patience_s=PATIENCE_S)
        async with under_load(load):
            await load.progress()
            followers = [
                Follower(gateways[at % 3].port, token(f"user-{at}")) for at in range(3 * 2 * len(AGENTS))
            ]
            runs: list[str] = []
            for at, follower in enumerate(followers):
                text = f"rate=10 seconds={RUN_S:g}"
                agent = AGENTS[at // 3 % len(AGENTS)]
                started = await start_run(follower.port, follower.secret, text, uuid.uuid4().hex, agent=agent)
                runs.append(started["run_id"])
                follower.channel = started["channel"]
            async with attending(*followers):
                process = gateways[0].process
                assert process is not None
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(PAUSE_S)
                process.send_signal(signal.SIGCONT)
                async with asyncio.timeout(within(60)):
                    proofs = [
                        await follower.until_over(run) for follower, run in zip(followers, runs, strict=True)
                    ]
                await load.resumed()
                await load.settle(120)
                assert [follower.faults for follower in followers] == [[]] * len(followers)
                assert all(proof.proven for proof in proofs)
            found: Verdict = load.verdict()
            ends = [str((proof.terminal or {}).get("code", "finished")) for proof in proofs]
            print(f"\nload of the machine {os.getloadavg()[0]:.1f}: {found}")
            print({end: ends.count(end) for end in sorted(set(ends))})
            assert "owner_lost" in ends, "the pause cost no run its owner: nothing was tested"
    assert (found.lost, found.twice, found.disordered, found.epochs) == (0, 0, 0, 1)
    assert found.gaps == []
    assert found.missing == []
    assert found.unrecovered == 0
