"""The built-in agent: the commands that it understands, and correct answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from narthex.adapters.agents.concierge import concierge
from narthex.adapters.agents.concierge_reports import refusal_codes
from narthex.domain.refusals import TABLE
from tests.adapters.agents.talk import Input, talk

HEALTH: dict[str, Any] = {
    "status": "degraded",
    "service": "narthex",
    "version": "1",
    "checks": {
        "broker": {"status": "healthy", "latency_ms": 1.234, "detail": ""},
        "auth": {"status": "degraded", "latency_ms": None, "detail": "keys | are old"},
    },
    "metrics": {"secret": "not for everybody"},
}


async def facts() -> Mapping[str, Any]:
    """The gateway's health."""
    return HEALTH


AGENT = concierge(facts, pace_s=0.0)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("help", "| `health` |"),
        ("What can you do?", "| `health` |"),
        ("", "| `health` |"),
        ("hello", "Hello, Alice."),
        ("@concierge hello", "Hello, Alice."),
        ("who am I?", "| subject | `alice` |"),
        ("time please", "UTC"),
        ("show me a markdown table", "```python"),
        ("codes", "| `token_expired` | 401 | 3500 |"),
        ("why was I refused token_expired", TABLE["token_expired"].remedy),
        ("why 3012?", "`no_pong`"),
        ("I was rejected with 429", "`connection_limit`"),
        ("401", "`auth_required`"),
        ("why was I refused", "Tell me the code"),
        ("why did my browser say 1006", "narthex.explain"),
        ("sing a song", "I do not understand “sing a song”"),
    ],
)
async def test_what_it_understands(said: str, words: str) -> None:
    """Each command in `help`, in users' wording."""
    assert words in (await talk(AGENT, Input(said))).text


async def test_health_is_asked_for_through_a_tool() -> None:
    """It thinks, calls the tool, shows its result, and reports every check; nothing else of the body."""
    heard = await talk(AGENT, Input("how is your health"))
    assert heard.of("REASONING_MESSAGE_CONTENT")
    assert heard.of("TOOL_CALL_START")[0]["toolCallName"] == "get_health"
    result = json.loads(heard.of("TOOL_CALL_RESULT")[0]["content"])
    assert result["status"] == "degraded"
    assert "metrics" not in result
    assert "The gateway is **degraded**." in heard.text
    assert "| broker | healthy | 1.2 |" in heard.text
    assert "keys \\| are old" in heard.text


async def test_counting_is_the_same_every_time() -> None:
    """`count to 200`: end-to-end tests compare its text to the byte."""
    expected = " ".join(map(str, range(1, 201)))
    assert (await talk(AGENT, Input("count to 200"))).text == expected
    assert (await talk(AGENT, Input("please count to 200 fast"))).text == expected
    assert (await talk(AGENT, Input("count to 1"))).text == "1"


async def test_echo_is_exact() -> None:
    """Blanks, line ends and all."""
    text = "two  blanks\n\nand 🎉 a line"
    assert (await talk(AGENT, Input(f"echo {text}"))).text == text


async def test_approval_first() -> None:
    """It asks before it acts; a refusal is respected, and so is silence."""
    yes = Input("check with approval", answers=({"approved": True},))
    heard = await talk(AGENT, yes)
    assert yes.asked[0][0]["required"] == ["approved"]
    assert "degraded" in heard.text
    no = await talk(AGENT, Input("check with approval", answers=({"approved": False, "note": "busy"},)))
    assert "did not check anything" in no.text
    assert "busy" in no.text
    assert not no.of("TOOL_CALL_START")
    assert not (await talk(AGENT, Input("check with approval"))).of("TOOL_CALL_START")


async def test_watching_has_steps_and_progress_and_can_be_steered() -> None:
    """`enough` ends it early, with a summary of the real observations."""
    run = Input("watch for 60 seconds")
    for said in ("faster", "slower", "blah", "enough"):
        run.steering.put_nowait(said)
    began = time.perf_counter()
    heard = await talk(AGENT, run)
    assert time.perf_counter() - began < 5
    assert len(heard.of("STEP_STARTED")) == len(heard.of("STEP_FINISHED")) >= 1
    assert heard.of("STATE_SNAPSHOT")[0]["snapshot"]["watch"]["of"] == 60
    assert all(part in heard.text for part in ("Faster", "Slower", "Noted: “blah”", "Enough", "× degraded"))


async def test_watching_ends_by_itself_and_stops_when_cancelled() -> None:
    """Its listener is removed either way."""
    heard = await talk(AGENT, Input("slow task for 0.6 s"))
    assert "I watched for 1 seconds and looked" in heard.text
    task = asyncio.get_running_loop().create_task(talk(AGENT, Input("watch for 60 s")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    left = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
    await asyncio.gather(*left, return_exceptions=True)
    assert all(one.cancelled() for one in left)


@pytest.mark.alone
async def test_the_first_word_comes_at_once() -> None:
    """Well under 100 ms after the start, at the usual pace."""
    began = time.perf_counter()
    stream = concierge(facts).function(Input("help"))
    assert await anext(stream)
    assert time.perf_counter() - began < 0.05


def test_refusals_are_found_by_any_of_their_names() -> None:
    """By code, by HTTP status, by close code."""
    assert refusal_codes("rate_limited") == ["rate_limited"]
    unavailable = {"starting", "auth_unavailable", "overloaded", "draining", "upstream_gone"}
    assert set(refusal_codes("got 503")) == unavailable
    assert refusal_codes("closed 3008") == ["slow"]
    assert refusal_codes("nothing") == []
