"""Agent: the abilities of the agent that answers here, and whether its answers are true."""

from __future__ import annotations

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import text_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.AGENT)
async def what_it_says_of_health_is_true(system: SystemUnderTest) -> None:
    """The concierge's health report names the status and the checks that /ws/health names."""
    async with system.client() as ada:
        told = text_of(await ada.ask("health"))
        body = (await system.get("/ws/health")).json()
        assert f"**{body['status']}**" in told, f"/ws/health: {body['status']}, the agent: {told[:120]}"
        for check in body["checks"]:
            assert check in told, f"{check} is missing in the agent's report"


@scenario(Category.AGENT)
async def it_explains_a_refusal(system: SystemUnderTest) -> None:
    """The explanation of `token_expired` gives status, close code and remedy of that row."""
    async with system.client() as ada:
        told = text_of(await ada.ask("why was I refused token_expired"))
        assert "`token_expired`" in told
        assert "401" in told
        assert "3500" in told


@scenario(Category.AGENT)
async def the_same_question_twice_gives_the_same_text(system: SystemUnderTest) -> None:
    """A deterministic skill answers with the same bytes, and two runs have two digests of their own events."""
    async with system.client() as ada:
        first, second = await ada.ask("count to 20"), await ada.ask("count to 20")
        assert text_of(first) == text_of(second) == " ".join(str(n) for n in range(1, 21))
        assert first[-1]["digest"] != second[-1]["digest"], "two runs with different ids have the same digest"


@scenario(Category.AGENT)
async def it_says_what_it_does_not_understand(system: SystemUnderTest) -> None:
    """The agent invents no answer: it says that it does not understand, and lists its abilities."""
    async with system.client() as ada:
        told = text_of(await ada.ask("please knit a jumper"))
        assert "do not understand" in told


@scenario(Category.AGENT)
async def steps_and_state_of_a_long_task(system: SystemUnderTest) -> None:
    """A watched task shows steps that open and close, and a state that changes."""
    async with system.client() as ada:
        kinds = [event["type"] for event in await ada.ask("watch for 2 seconds")]
        assert kinds.count("STEP_STARTED") == kinds.count("STEP_FINISHED") > 0
        assert "STATE_SNAPSHOT" in kinds
        assert "STATE_DELTA" in kinds
