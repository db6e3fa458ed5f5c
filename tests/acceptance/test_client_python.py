"""`narthex.client` against the real program: runs verified through a crash, refusals with their reason, approvals."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from narthex import client
from narthex.bench.load.wire import mint
from tests.acceptance.program import Program, running

pytestmark = pytest.mark.acceptance
SECRET = "a secret of at least thirty-two bytes, for tests"
STREAM = ("--agent", "narthex.bench.agents:stream")


async def test_runs_are_proven_on_two_devices(tmp_path: Path) -> None:
    """A new thread, then the same thread; the second device follows by the run's id alone."""
    async with running(tmp_path) as program:
        token = await asyncio.to_thread(program.token, "ada")
        notices: list[str] = []
        async with (
            client.connect(program.ws, get_token=lambda: token) as one,
            client.connect(
                program.ws, get_token=lambda: token, on_notice=lambda event: notices.append(event["name"])
            ) as two,
        ):
            first = await one.start_run("hello")
            assert (await first.wait(20)).complete
            assert first.outcome == "success"
            assert first.text
            second = await one.start_run("hello again", thread_id=first.thread_id)
            followed = await two.follow_run(second.run_id)
            assert (await second.wait(20)).digest == (await followed.wait(20)).digest
            assert followed.text == second.text
            answer = await two.rpc("run.get", {"run_id": second.run_id})
            assert (answer["text"], answer["digest"]) == (second.text, second.proof.digest)
            late = await two.follow_run(first.run_id)
            assert (await late.wait(20)).complete
        assert notices


async def test_a_crash_in_the_middle_of_a_run_is_survived(tmp_path: Path) -> None:
    """`kill -9` while a run streams: the client reconnects automatically and verifies the events that the log has."""
    async with running(tmp_path, arguments=STREAM) as program:
        token = await asyncio.to_thread(program.token, "ada", plan="mid")
        async with client.connect(program.ws, get_token=lambda: token, connect_timeout_s=60) as gateway:
            run = await gateway.start_run("rate=50 seconds=30")
            async for _ in run:
                if run.proof.count > 20:
                    break
            program.kill()
            await program.start()
            proof = await run.wait(60)
        assert proof.complete, proof.reason
        assert (run.outcome, run.events[-1].get("code")) == ("error", "owner_lost")


async def refused(program: Program, token: str | None) -> tuple[client.Refused, int]:
    """The refusal that a client with this token gets, and the number of times it asked for a token."""
    asked = 0

    def source() -> str | None:
        nonlocal asked
        asked += 1
        return token

    with pytest.raises(client.Refused) as caught:
        async with client.connect(program.ws, get_token=source):
            pass
    return caught.value, asked


async def test_refusals_have_their_reason_and_are_not_repeated(tmp_path: Path) -> None:
    """Code, detail and remedy of the gateway; one attempt, except that a stale token gets a second one."""
    async with running(tmp_path, env={"NARTHEX_JWT_SECRET": SECRET}) as program:
        for token, code, attempts in (
            (mint("another secret of thirty-two bytes, or more", "ada"), "token_invalid", 1),
            ("not.a.token", "token_malformed", 1),
            (None, "auth_required", 1),
            (mint(SECRET, "ada", ttl_s=-3600), "token_expired", 2),
        ):
            began = time.monotonic()
            error, asked = await refused(program, token)
            assert (error.code, asked) == (code, attempts)
            assert error.remedy, code
            assert time.monotonic() - began < 10


async def test_an_approval_is_given_from_another_device(tmp_path: Path) -> None:
    """The run ends with a question; the answer opens the run in which the same agent continues."""
    agents = tmp_path / "asking.py"
    agents.write_text(
        "import narthex\n\n\n@narthex.agent()\nasync def asking(run):\n"
        "    schema = {'type': 'object', 'properties': {'yes': {'type': 'boolean'}}, 'required': ['yes']}\n"
        "    answer = await run.ask(schema, 'May I?')\n"
        "    yield 'yes' if answer['yes'] else 'no'\n"
    )
    async with running(tmp_path, arguments=("--agent", "asking:asking")) as program:
        token = await asyncio.to_thread(program.token, "ada")
        async with (
            client.connect(program.ws, get_token=lambda: token) as one,
            client.connect(program.ws, get_token=lambda: token) as two,
        ):
            run = await one.start_run("go on")
            await run.wait(20)
            assert (run.outcome, [asked["message"] for asked in run.interrupts]) == ("interrupt", ["May I?"])
            other = await two.follow_run(run.run_id)
            await other.wait(20)
            answered = await other.resume(other.interrupts[0]["id"], {"yes": True})
            assert (await answered.wait(20)).complete
            assert answered.text == "yes"
