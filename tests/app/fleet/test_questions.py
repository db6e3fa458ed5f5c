"""Questions of one process to others: answers, silence, late answers."""

from __future__ import annotations

import asyncio

import pytest

from narthex.app.fleet.questions import FleetQuestions
from narthex.errors import DependencyError
from narthex.ports.broker import Control


class Bus:
    """A control bus between processes; those in `deaf` get nothing."""

    def __init__(self) -> None:
        self.nodes: dict[str, FleetQuestions] = {}
        self.deaf: set[str] = set()
        self.away = False

    async def control(self, message: Control) -> None:
        """See the port."""
        if self.away:
            raise DependencyError("broker", "It is away.", "Wait.")
        for name, node in self.nodes.items():
            if message.node in ("", name) and name not in self.deaf:
                asyncio.get_running_loop().call_soon(node.control, message)

    def add(self, name: str, patience_s: float = 5.0) -> FleetQuestions:
        """Another process, which answers with its name."""
        node = self.nodes[name] = FleetQuestions(name, self, patience_s)
        node.on("name", lambda data: {"is": name, "asked": data["word"]})
        return node


async def test_every_process_answers() -> None:
    """This one too, without the bus."""
    bus = Bus()
    asker, *_ = [bus.add(name) for name in ("a", "b", "c")]
    found = await asker.ask("name", {"word": "x"}, {"a", "b", "c"})
    assert {node: answer["is"] for node, answer in found.by_node.items()} == {"a": "a", "b": "b", "c": "c"}
    assert found.missing == []


async def test_a_silent_process_is_named_after_a_bounded_time() -> None:
    """What the others said is there."""
    bus = Bus()
    asker, *_ = [bus.add(name, 0.05) for name in ("a", "b", "c")]
    bus.deaf = {"c"}
    found = await asker.ask("name", {"word": "x"}, {"a", "b", "c", "gone"})
    assert sorted(found.by_node) == ["a", "b"]
    assert found.missing == ["c", "gone"]
    bus.deaf = set()
    asker.control(Control("fleet_answer", {"id": "an old one", "node": "c", "data": {}}))
    assert (await asker.ask("name", {"word": "x"}, {"c"})).missing == []


async def test_a_broker_that_is_away_is_an_error() -> None:
    """And no question stays open."""
    bus = Bus()
    asker = bus.add("a")
    bus.away = True
    with pytest.raises(DependencyError):
        await asker.ask("name", {"word": "x"}, {"b"})
    assert not asker._open
