"""From a spec to an agent, and the errors of wrong specs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.adapters.agents.loading import load_agent
from narthex.adapters.agents.python import python_agent
from narthex.errors import ConfigError
from narthex.ports.agents import Event, RunInput, agent
from tests.adapters.agents.talk import Input, talk

SOURCE = '''
"""Agents of a test."""
from narthex.ports.agents import Agent, agent


@agent(restartable=True, name="marked", description="Says hello.")
async def marked_function(run):
    yield f"Hello, {run.user.name}"


async def plain(run):
    """Plain as can be.

    Second line."""
    yield "plain"


class Greeter:
    async def __call__(self, run):
        yield "called"

    async def method(self, run):
        yield "method"


greeter = Greeter()
ready = Agent(name="ready", function=plain)
number = 7


def sync(run):
    return []


async def coroutine(run):
    return "x"


async def two(run, more):
    yield "x"
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of agents in the working directory."""
    (tmp_path / "agents_of_a_test.py").write_text(SOURCE)
    (tmp_path / "broken_of_a_test.py").write_text("import no_such_thing_at_all\n")
    (tmp_path / "raising_of_a_test.py").write_text("raise RuntimeError('on import')\n")
    (tmp_path / "deep_of_a_test.py").write_text("\nimport raising_of_a_test\n")
    (tmp_path / "called_of_a_test.py").write_text("import json\n\nraise ValueError('bad')\n")
    (tmp_path / "typo_of_a_test.py").write_text("import json\ndef x(:\n")
    (tmp_path / "needs_nats_of_a_test.py").write_text("import nats.no_such_part\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for path in tmp_path.glob("*_of_a_test.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    ("spec", "name", "restartable", "description", "text"),
    [
        ("agents_of_a_test:marked_function", "marked", True, "Says hello.", "Hello, Alice"),
        ("agents_of_a_test:plain", "plain", False, "Plain as can be.", "plain"),
        ("other=agents_of_a_test:plain", "other", False, "Plain as can be.", "plain"),
        ("greeter=agents_of_a_test:greeter", "greeter", False, "", "called"),
        ("agents_of_a_test:greeter.method", "method", False, "", "method"),
        ("agents_of_a_test:ready", "ready", False, "", "plain"),
    ],
)
async def test_what_can_be_loaded(
    spec: str, name: str, restartable: bool, description: str, text: str
) -> None:
    """Functions, marked ones, methods, callable objects, ready-made agents; under their name or another."""
    found = load_agent(spec)
    assert (found.name, found.restartable, found.description) == (name, restartable, description)
    assert (await talk(found, Input("hi"))).text == text


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nonsense", "Use module:function"),
        ("no_such_module_here:x", "no module 'no_such_module_here'"),
        (
            "broken_of_a_test:x",
            "broken_of_a_test.py, line 1 imports 'no_such_thing_at_all', which is not installed",
        ),
        ("raising_of_a_test:x", "raising_of_a_test.py, line 1 raised RuntimeError: on import"),
        ("deep_of_a_test:x", "raising_of_a_test.py, line 1 raised RuntimeError: on import"),
        ("called_of_a_test:x", "called_of_a_test.py, line 3 raised ValueError: bad"),
        ("typo_of_a_test:x", "typo_of_a_test.py, line 2 raised SyntaxError: "),
        ("needs_nats_of_a_test:x", "pip install 'narthex[nats]'"),
        ("agents_of_a_test:greter", "Did you mean greeter"),
        ("concierge", "does not name an agent"),
        ("agents_of_a_test:missing", "has no 'missing'"),
        ("agents_of_a_test:number", "is a int"),
        ("agents_of_a_test:coroutine", "not an async generator function"),
        ("agents_of_a_test:two", "one argument"),
    ],
)
def test_what_cannot_be_loaded_is_told_why(spec: str, words: str) -> None:
    """One sentence that names the spec and the fault."""
    with pytest.raises(ConfigError) as caught:
        load_agent(spec)
    assert words in caught.value.problems[0]
    assert spec in caught.value.problems[0]


@pytest.mark.parametrize("kind", ["agui", "openai"])
@pytest.mark.parametrize(
    "url", ["http://[::1/chat#m", "http://host:port/chat#m", "http://me:pass@host/chat#m"]
)
def test_an_endpoint_has_a_url(kind: str, url: str) -> None:
    """Else it is a problem of the settings, which does not repeat a password."""
    with pytest.raises(ConfigError) as caught:
        load_agent(f"{kind}+{url}")
    (problem,) = caught.value.problems
    assert "the URL needs a host, and no user or password" in problem
    assert "pass@" not in problem


def test_a_decorated_function_stays_what_it_is() -> None:
    """`@narthex.agent` only marks."""

    @agent(restartable=True)
    async def mine(run: RunInput) -> AsyncIterator[Event | str]:
        """My own."""
        yield "x"

    found = python_agent("x:mine", mine)
    assert (found.name, found.restartable, found.description) == ("mine", True, "My own.")
    assert found.function is mine


def test_the_decorator_works_without_parentheses() -> None:
    """`@narthex.agent` alone is what users write first."""

    @agent
    async def bare(run: RunInput) -> AsyncIterator[Event | str]:
        """Bare."""
        yield "x"

    found = python_agent("x:bare", bare)
    assert (found.name, found.restartable, found.description) == ("bare", False, "Bare.")
    assert found.function is bare


def test_an_agent_offers_its_own_suggestions() -> None:
    """First messages for the page, within limits that the decorator reports."""

    @agent(suggestions=["Weather in Paris?", "Help"])
    async def weather(run: RunInput) -> AsyncIterator[Event | str]:
        yield "x"

    assert python_agent("x:weather", weather).suggestions == ("Weather in Paris?", "Help")
    for wrong in (["x"] * 9, [""], ["x" * 201]):
        with pytest.raises(ValueError, match="suggestion"):
            agent(suggestions=wrong)


async def test_the_concierge_stands_beside_others(tmp_path: Path) -> None:
    """By its spec, or under another name; without health facts it does not exist."""

    async def facts() -> dict[str, object]:
        return {"status": "healthy", "checks": {}}

    found = load_agent("desk=concierge", facts=facts)
    assert found.name == "desk"
    assert "help" in found.suggestions
    assert "healthy" in (await talk(found, Input("health"))).text


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pydantic AI alone is not enough: its AG-UI side is an extra."""
    monkeypatch.setitem(sys.modules, "pydantic_ai.ui.ag_ui", None)
    monkeypatch.delitem(sys.modules, "narthex.adapters.agents.pydantic_ai", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'narthex\[pydantic-ai\]'"):
        load_agent("tests.adapters.agents.pydantic_agents:weather")


def test_a_script_that_exits_is_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not end the gateway with an exit code of its own."""
    (tmp_path / "script_that_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(
        sys, "path", [str(tmp_path), *sys.path]
    )  # syspath_prepend wants setuptools' pkg_resources
    with pytest.raises(ConfigError, match=r"script_that_exits\.py, line 1 raised SystemExit"):
        load_agent("script_that_exits:agent")
