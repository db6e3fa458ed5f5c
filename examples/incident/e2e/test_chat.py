"""The seven end-to-end tests of the chat. They are the same before and after."""

from collections.abc import Callable
from typing import Any

Opened = Callable[[], Any]
WHOLE_RUN = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]


def test_event_flow(opened: Opened) -> None:
    """A run sends its five events, in order and under its id."""
    events = opened().ask("r-1", "6 * 7")
    assert [event["type"] for event in events] == WHOLE_RUN
    assert {event["id"] for event in events} == {"r-1"}


def test_seven_concurrent_sockets(opened: Opened) -> None:
    """Seven connections at once each get their own answer."""
    chats = [opened() for _ in range(7)]
    answers = [chat.ask(f"r-{number}", f"{number} + {number}")[-1] for number, chat in enumerate(chats)]
    assert [(answer["id"], answer["text"]) for answer in answers] == [
        (f"r-{number}", f"{2 * number}") for number in range(7)
    ]


def test_message_flow(opened: Opened) -> None:
    """One connection carries one conversation after another."""
    chat = opened()
    assert [chat.ask(f"r-{number}", f"{number} * 10")[-1]["text"] for number in range(3)] == ["0", "10", "20"]


def test_error_handling_flow(opened: Opened) -> None:
    """A message that is no command is answered by an error, and the connection lives on."""
    chat = opened()
    for text in ("no JSON", "[]", '{"type": "dance"}'):
        chat.say(text)
        assert chat.event()["type"] == "error"
    assert chat.ask("r-1", "1 + 1")[-1]["text"] == "2"


def test_pipeline_execution(opened: Opened) -> None:
    """The agent calls its tool between start and answer, and the answer is the tool's."""
    events = opened().ask("r-1", "10 / 4")
    assert [event.get("tool") for event in events] == [None, None, "calculate", "calculate", None]
    assert events[-1]["text"] == "2.5"


def test_lifecycle_monitoring(opened: Opened) -> None:
    """The list of runs tells how each one ended."""
    chat = opened()
    chat.ask("good", "1 + 1")
    chat.ask("bad", "1 / 0")
    assert chat.runs() == {"good": "completed", "bad": "failed"}


def test_pipeline_error_handling(opened: Opened) -> None:
    """A tool that fails ends its run with the reason, and the next run is whole."""
    chat = opened()
    failed = chat.ask("r-1", "1 / 0")[-1]
    assert (failed["type"], failed["reason"]) == ("agent_failed", "ZeroDivisionError")
    assert [event["type"] for event in chat.ask("r-2", "8 / 2")] == WHOLE_RUN
