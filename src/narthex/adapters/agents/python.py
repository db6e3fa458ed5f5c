"""Agents written in Python: `module:function`, an async generator function that takes a `RunInput`, or a plain function
or generator function, which then runs in a thread (`threaded`).

The function may be marked with `@narthex.agent(restartable=True, name="…", description="…")`; without it, its
name is the agent's and it is not restartable. Not here: the values that an agent may yield (docs/runs.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from narthex.adapters.agents.threaded import threaded
from narthex.errors import ConfigError
from narthex.ports.agents import Agent


def python_agent(spec: str, function: Callable[..., Any], *, name: str = "") -> Agent:
    """An agent around an async generator function, a plain one, or an object whose `__call__` is one.

    Raises:
        ConfigError: it is a coroutine function, which answers nothing before its end, or takes no `RunInput`.
    """
    called = inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)
    if inspect.iscoroutinefunction(called) or inspect.isclass(function):
        called_name = getattr(function, "__name__", type(function).__name__)
        remedy = "Declare it `async def` and use `yield`, or `def`: then it runs in a thread."
        raise ConfigError([f"Agent {spec}: {called_name} is not an async generator function. {remedy}"])
    try:
        inspect.signature(function).bind(object())
    except TypeError as fault:
        raise ConfigError([f"Agent {spec}: it must take one argument, the RunInput ({fault})."]) from fault
    marked: dict[str, Any] = getattr(function, "__narthex_agent__", {})
    public = name or marked.get("name") or getattr(function, "__name__", "") or "agent"
    return Agent(
        name=public,
        function=function if inspect.isasyncgenfunction(called) else threaded(public, function),
        restartable=bool(marked.get("restartable", False)),
        suggestions=tuple(marked.get("suggestions", ())),
        busy=marked.get("busy", "enqueue"),
        description=marked.get("description") or (inspect.getdoc(function) or "").partition("\n")[0],
    )
