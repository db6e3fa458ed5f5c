"""docs/asyncapi.json: it is an AsyncAPI document, and a gateway says exactly what it describes."""

from __future__ import annotations

import ast
import asyncio
import copy
import json
from typing import Any

import jsonschema
import pytest
from tools.asyncapi import EXAMPLES, SUMMARIES, document, methods
from tools.wire_tables import EVENTS, METHODS, NOTICES

from narthex.protocol.commands import MEMBERS
from tests.docs.conversation import UNKNOWN_METHOD, Frame, examples, named, recorded
from tests.docs.packages import package_file
from tests.docs.schemas import references, resolved, strict
from tests.generated import ROOT

UNSEEN = {
    "event.narthex.restarted": "an owner has to die: tests/app/runs/test_takeover.py",
    "event.narthex.model_stopped": "a model is needed: tests/acceptance/test_model_streams.py",
    "event.narthex.model_note": "a model is needed: tests/acceptance/test_model_streams.py",
}
"""Messages that the conversation does not have, with the reason and the test that does."""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document."""
    return document()


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """The frames of the conversation."""
    return asyncio.run(recorded(tmp_path_factory.mktemp("conversation")))


def test_it_is_an_asyncapi_document(made: dict[str, Any]) -> None:
    """AsyncAPI's own JSON Schema takes it, and takes none whose operation has no action."""
    schema = json.loads(package_file("@asyncapi/specs", "schemas/3.0.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [f"{list(fault.absolute_path)}: {fault.message}" for fault in validator.iter_errors(made)] == []
    spoiled = copy.deepcopy(made)
    del spoiled["operations"]["connect"]["action"]
    assert list(validator.iter_errors(spoiled))


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    """Also the rule that no schema can say: an operation's messages are those of its channel."""
    for reference in set(references(made)):
        assert resolved(made, reference)
    for operation in made["operations"].values():
        channel = operation["channel"]["$ref"]
        for message in [*operation["messages"], *operation.get("reply", {}).get("messages", [])]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_every_frame_is_as_described(made: dict[str, Any], tape: list[Frame]) -> None:
    """Each frame of each side is one of its message, without a member that the document does not have."""
    root = strict({"components": {"schemas": made["components"]["schemas"]}})
    checks = {
        name: jsonschema.Draft202012Validator({**root, **strict(message["payload"])})
        for name, message in made["components"]["messages"].items()
    }
    frames = [(name, body) for name, body in named(tape) if name != f"rpc.{UNKNOWN_METHOD}"]
    faults = [
        f"{name}: {list(fault.absolute_path)}: {fault.message}\n{body}"
        for name, body in frames
        for fault in checks[name].iter_errors(body)
    ]
    assert faults == []
    seen = {name for name, _ in frames}
    assert set(checks) - seen == set(UNSEEN), "described and never seen, or seen at last"


def test_a_wrong_frame_is_noticed(made: dict[str, Any], tape: list[Frame]) -> None:
    """The comparison above can fail: for an unknown member, a missing one, and one of another type."""
    root = strict({"components": {"schemas": made["components"]["schemas"]}})
    messages = made["components"]["messages"]
    check = jsonschema.Draft202012Validator({**root, **strict(messages["connect.reply"]["payload"])})
    reply = next(body for name, body in named(tape) if name == "connect.reply")
    assert check.is_valid(reply)
    for change in ({"unknown": 1}, {"client": 7}):
        assert not check.is_valid(reply | {"connect": reply["connect"] | change})
    assert not check.is_valid({"id": 1, "connect": {"version": "1"}})


def test_the_examples_are_of_today(tape: list[Frame]) -> None:
    """Each example has the members that the frame has today; `python -m tests.docs.conversation` records them anew."""
    kept = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    by_time = {"timestamp", "seq_from"}  # an event may have no time, and deltas may be merged
    shown, today = (
        {name: set(body) - by_time for name, body in one.items()} for one in (kept, examples(tape))
    )
    assert shown == today
    assert "eyJ" not in EXAMPLES.read_text(encoding="utf-8"), "a token"


def test_every_method_is_described() -> None:
    """The table of results names the methods of the gateway and no others."""
    assert set(METHODS) == set(methods())


def test_every_event_of_the_gateway_is_described() -> None:
    """Each `narthex.…` name that some code publishes as a CUSTOM event is in the tables, and no other."""
    published = {"custom", "notify_members", "send", "ephemeral", "notice"}
    found: set[str] = set()
    for path in (ROOT / "src" / "narthex").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if '"narthex.' not in text:
            continue
        tree = ast.parse(text)
        constants = {
            getattr(target, "id", ""): node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", getattr(node.func, "id", "")) in published
            ):
                found |= names([constants.get(getattr(one, "id", ""), one) for one in node.args])
    assert found == set(EVENTS) | set(NOTICES)


def names(values: list[ast.expr]) -> set[str]:
    """Those of the values that are names of the gateway's events."""
    texts = {
        value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }
    return {text for text in texts if text.startswith("narthex.")}


def test_every_command_is_described() -> None:
    """The table of summaries names the commands of the protocol and no others; `rpc` has its methods instead."""
    assert set(SUMMARIES) == set(MEMBERS) - {"rpc"}
