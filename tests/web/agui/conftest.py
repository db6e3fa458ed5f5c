"""A gateway with the agents of these tests, and an HTTP client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from narthex.adapters.agents.pydantic_ai import pydantic_agent
from narthex.ports.agents import Agent
from narthex.testing import Running, gateway
from tests.adapters.agents.pydantic_agents import weather
from tests.timing import within
from tests.web.agui.agents import active, careful, curious, flood, gates, pair, patient, words

ADMIN = "an-admin-key-of-decent-length-0123456789"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    gates.clear()
    agents = [
        Agent(name="words", function=words, description="Says it back."),
        Agent(name="patient", function=patient),
        Agent(name="careful", function=careful),
        pydantic_agent("weather", weather),
        Agent(name="flood", function=flood),
        Agent(name="curious", function=curious),
        Agent(name="pair", function=pair),
        Agent(name="active", function=active),
    ]
    async with gateway(tmp_path, agents=agents, admin_key=ADMIN, max_lag_s=1) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as client:
        yield client
