"""Lies in the events of runs, with `count` and `digest` kept right unless they are the lie."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from narthex.domain.digest import digest_of
from tests.e2e.lies.registry import lie
from tests.e2e.lies.server import Lie, Line, Message

Event = dict[str, Any]


class Events(Lie):
    """Changes events of runs wherever a client receives them."""

    consistent = True
    per_line = False

    def __init__(self) -> None:
        self._told: dict[tuple[int, str], dict[int, Event]] = {}

    def event(self, line: Line, event: Event) -> Event:
        """One event of a run; the answer may depend only on the event and the connection."""
        raise NotImplementedError

    async def push(self, line: Line, push: Message) -> list[Message]:
        if "pub" in push:
            self._publication(line, push["pub"])
        return [{"push": push}]

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        for publication in _publications(reply):
            self._publication(line, publication)
        return reply

    def _publication(self, line: Line, publication: Message) -> None:
        event = publication.get("data")
        if not isinstance(event, dict) or "runId" not in event or "seq" not in event:
            return
        changed = publication["data"] = self.event(line, dict(event))
        told = self._told.setdefault((line.number if self.per_line else 0, event["runId"]), {})
        for seq in range(int(event.get("seq_from") or event["seq"]), event["seq"] + 1):
            told.pop(seq, None)
        told[event["seq"]] = changed
        if self.consistent and "digest" in event:
            changed["digest"] = digest_of([told[seq] for seq in sorted(told)])


def _publications(reply: Message) -> Iterator[Message]:
    if "subscribe" in reply:
        yield from reply["subscribe"].get("publications", [])
    if "history" in reply:
        yield from reply["history"].get("publications", [])
    for sub in reply.get("connect", {}).get("subs", {}).values():
        yield from sub.get("publications", [])


def hidden(event: Event) -> Event:
    """The event with a type that no scenario checks; order, ids and `seq` stay."""
    kept = {
        name: event[name] for name in ("runId", "threadId", "seq", "seq_from", "timestamp") if name in event
    }
    return {"type": "CUSTOM", "name": "lie", "value": {}} | kept


class Hidden(Events):
    """Hides some types of events."""

    types: tuple[str, ...] = ()

    def event(self, line: Line, event: Event) -> Event:
        return hidden(event) if event["type"].startswith(self.types) else event


@lie(
    {
        "websocket_events.event_flow": "TOOL_CALL",
        "agent_pipeline.thinking_and_tools_are_visible": "TOOL_CALL",
        "lifecycle_events.tool_calls_have_arguments_and_results": "tool call",
    }
)
class ToolCallsAreNotShown(Hidden):
    """A run shows no tool calls."""

    types = ("TOOL_CALL_",)


@lie({"agent_pipeline.thinking_and_tools_are_visible": "REASONING"})
class ReasoningIsNotShown(Hidden):
    """A run shows no reasoning."""

    types = ("REASONING_",)


@lie({"lifecycle_events.tool_calls_have_arguments_and_results": "argument"})
class ToolCallsHaveNoArguments(Hidden):
    """A tool call has no arguments."""

    types = ("TOOL_CALL_ARGS",)


@lie({"lifecycle_events.tool_calls_have_arguments_and_results": "result"})
class ToolCallsHaveEmptyResults(Events):
    """A tool call's result is empty."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"content": ""} if event["type"] == "TOOL_CALL_RESULT" else event


@lie(
    {
        "agent_pipeline.every_opened_thing_is_closed": "closed",
    }
)
class MessagesNeverEnd(Hidden):
    """A message is opened but not closed."""

    types = ("TEXT_MESSAGE_END",)


@lie({"agent.steps_and_state_of_a_long_task": "STEP_FINISHED"})
class StepsNeverEnd(Hidden):
    """A step is opened but not closed."""

    types = ("STEP_FINISHED",)


@lie({"agent.steps_and_state_of_a_long_task": "STATE_DELTA"})
class StateNeverChanges(Hidden):
    """A long task never shows a state change."""

    types = ("STATE_DELTA",)


@lie({"lifecycle_events.lifecycle_monitoring": "STEP_|TOOL_CALL"})
class WorkIsNotShown(Hidden):
    """A watcher sees a run begin and end, but no work."""

    types = ("STEP_", "TOOL_CALL_")


@lie({"lifecycle_events.a_run_has_one_beginning_and_one_end": "RUN_STARTED"})
class RunsBeginTwice(Events):
    """A run has a second beginning."""

    def event(self, line: Line, event: Event) -> Event:
        return hidden(event) | {"type": "RUN_STARTED"} if event["seq"] == 3 else event


@lie({"lifecycle_events.lifecycle_monitoring": "threadId"})
class EventsNameAnotherThread(Events):
    """An event names a different thread than its own."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"threadId": "another"} if event["seq"] == 3 else event


@lie({"agent_orchestration.cancel_stops_a_run": "was cancelled and ended with"})
class CancelledRunsSucceed(Events):
    """A cancelled run ends as a success."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"outcome": {"type": "success"}} if event["type"] == "RUN_FINISHED" else event


@lie({"agent_orchestration.approval_continues_in_a_new_run": "parentRunId"})
class ResumedRunsHaveNoParent(Events):
    """The run after an answer names no parent."""

    def event(self, line: Line, event: Event) -> Event:
        return {name: value for name, value in event.items() if name != "parentRunId"}


class Text(Events):
    """Changes the text of answers, delta by delta."""

    def event(self, line: Line, event: Event) -> Event:
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            event["delta"] = self.text(line, event["delta"])
        return event

    def text(self, line: Line, delta: str) -> str:
        raise NotImplementedError


@lie(
    {
        "critical_path.sign_in_ask_read": "critical path",
        "agent.it_explains_a_refusal": "token_expired",
        "agent.it_says_what_it_does_not_understand": "do not understand",
        "agent.the_same_question_twice_gives_the_same_text": "text_of",
        "agent_pipeline.the_agent_knows_who_asks": "whoami|user",
        "coordination.twenty_people_at_once_get_their_own": "mine-",
        "chat.a_long_message_goes_through": "characters came back",
        "response_streaming.many_answers_stream_at_once": "stream-",
        "response_streaming.a_reader_that_pauses_still_gets_the_same_text": "text",
    }
)
class AnswersAreInvented(Text):
    """Every answer is an invented text of the same length."""

    def text(self, line: Line, delta: str) -> str:
        return "z" * len(delta)


@lie({"message_flow.unicode_survives": "came back"})
class TextIsNormalised(Text):
    """Text is normalised to NFC."""

    def text(self, line: Line, delta: str) -> str:
        return unicodedata.normalize("NFC", delta)


@lie(
    {
        "websocket_events.seven_concurrent_sockets": "two sockets saw different runs",
        "response_streaming.a_reader_that_pauses_still_gets_the_same_text": "text",
    }
)
class OneSocketSeesAnotherText(Text):
    """The second connection sees another text with a matching digest."""

    per_line = True

    def text(self, line: Line, delta: str) -> str:
        return delta.replace("1", "7") if line.number == 2 else delta


@lie(
    {
        "coordination.twenty_people_at_once_get_their_own": "mine-",
        "response_streaming.many_answers_stream_at_once": "stream-",
    }
)
class WordsMix(Text):
    """Words of one run appear in another."""

    def text(self, line: Line, delta: str) -> str:
        return delta.replace("mine-3-", "mine-3- mine-4-").replace("stream-3-", "stream-3- stream-4-")


@lie({"chat.a_long_message_goes_through": "characters came back"})
class LongTextIsCut(Text):
    """A long word loses its end."""

    def text(self, line: Line, delta: str) -> str:
        return delta[:-1] if len(delta) > 200 else delta


@lie(
    {
        "smoke.one_question_one_whole_answer": "digest",
        "critical_path.sign_in_ask_read": "digest",
        "websocket_events.event_flow": "digest",
        "agent_pipeline.pipeline_error_handling": "digest",
    }
)
class DigestsAreWrong(Events):
    """A run's digest is not that of its events."""

    consistent = False

    def event(self, line: Line, event: Event) -> Event:
        return event | {"digest": "sha256:" + "0" * 64} if "digest" in event else event


@lie({"agent.the_same_question_twice_gives_the_same_text": "digest"})
class DigestsAreAConstant(Events):
    """Every run has the same digest."""

    consistent = False

    def event(self, line: Line, event: Event) -> Event:
        return event | {"digest": "sha256:" + "1" * 64} if "digest" in event else event


@lie({"chat.what_the_other_device_says_arrives": "the message arrived as"})
class MessagesOfPeopleAreChanged(Lie):
    """A user's own message reaches other devices with other words."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        event = push.get("pub", {}).get("data", {})
        if "runId" not in event and "delta" in event:
            event["delta"] = event["delta"].upper()
        return [{"push": push}]
