"""The spans of one run: the run, its agent, tools and steps as the agent's events show them, and what was published.

    run                              as long as this node works at it; deliveries are its events
    ├─ invoke_agent <name>           the agent's coroutine
    │  ├─ execute_tool <tool>        TOOL_CALL_START to its result
    │  └─ step <name>                STEP_STARTED to STEP_FINISHED
    └─ publish                       each event but a delta, from here to durable

Not here: spans of HTTP requests and models (`adapters/agents`). Rules: names, ids, counts and times only: no text of a
message, no argument and no result of a tool; the number of spans of a run is bounded, and what is beyond is counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from narthex.app.runs.endings import (
    Abandoned,
    Cancelled,
    Completed,
    Ending,
    Failed,
    GivenBack,
    Interrupted,
    Lost,
)
from narthex.domain.events import Event, is_delta
from narthex.domain.traces import decoded_trace
from narthex.ports.runs import Run
from narthex.ports.tracing import CURRENT, NO_SPAN, Span, Tracer, Value

MAX_PUBLISHES: Final = 64
MAX_CALLS: Final = 256  # tools and steps
_TOKENS: Final = {"input_tokens": "inputTokens", "output_tokens": "outputTokens"}
MAX_DELIVERIES: Final = 64  # the SDK keeps 128 events of a span


class RunTrace:
    """See the module.

    Attributes:
        recording: whether anything is kept: ask before anything else here.
        span: the run's.
        agent: the agent's, while it runs.
    """

    def __init__(self, span: Span, agent: str = "", thread_id: str = "") -> None:
        self.span = span
        self.recording = span.recording
        self.agent: Span = NO_SPAN
        self._agent_name = agent
        self._thread_id = thread_id
        self._open: dict[tuple[str, str], Span] = {}
        self._asked: dict[str, float] = {}  # when the arguments of a tool call were complete
        self._calls = 0
        self._publishes = 0
        self._deliveries = 0
        self._deltas = 0
        self._bytes = 0
        self._failure = ""

    def invoke(self) -> Span:
        """The agent begins or continues; returns its span, for its task to enter."""
        name = self._agent_name
        if self.recording:
            self.agent = self.span.child(
                f"invoke_agent {name}",
                attributes={
                    "gen_ai.operation.name": "invoke_agent",
                    "gen_ai.agent.name": name,
                    "gen_ai.conversation.id": self._thread_id,
                },
            )
        else:
            self.agent = self.span
        return self.agent

    def took(self, event: Event) -> None:
        """An event of the agent was accepted."""
        match event["type"]:
            case "TOOL_CALL_START":
                name, call = str(event.get("toolCallName", "")), str(event["toolCallId"])
                self._begin(
                    ("tool", call),
                    f"execute_tool {name}",
                    {
                        "gen_ai.operation.name": "execute_tool",
                        "gen_ai.tool.name": name,
                        "gen_ai.tool.call.id": call,
                    },
                )
            case "TOOL_CALL_END":
                if ("tool", call := str(event["toolCallId"])) in self._open:
                    self._asked[call] = time.time()
            case "TOOL_CALL_RESULT":
                self._end(("tool", str(event["toolCallId"])))
            case "STEP_STARTED":
                name = str(event.get("stepName", ""))
                self._begin(("step", name), f"step {name}", {"narthex.step": name})
            case "STEP_FINISHED":
                self._end(("step", str(event.get("stepName", ""))))

    def _begin(self, key: tuple[str, str], name: str, attributes: Mapping[str, Value]) -> None:
        self._calls += 1
        if self._calls <= MAX_CALLS and key not in self._open:
            self._open[key] = self.agent.child(name, attributes=attributes)

    def _end(self, key: tuple[str, str]) -> None:
        if (span := self._open.pop(key, None)) is not None:
            span.end()

    def published(self, wire: Event, size: int, began_at: float, *, tries: int) -> None:
        """An event is durable since now; `began_at`, seconds since the epoch: when it was to be published."""
        self._bytes += size
        if is_delta(wire):
            if not self._deltas:
                self.span.event("first delta", {"narthex.seq": wire["seq"]})
            self._deltas += 1
            return
        self._publishes += 1
        if self._publishes > MAX_PUBLISHES:
            return
        self.span.child(
            "publish",
            kind="producer",
            started_at=began_at,
            attributes={
                "messaging.operation.type": "send",
                "messaging.message.body.size": size,
                "narthex.event": wire["type"],
                "narthex.seq": wire["seq"],
                "narthex.tries": tries,
            },
        ).end()

    def delivered(self, offset: int, subscribers: int) -> None:
        """This node's hub has written a publication of the run to its subscribers."""
        self._deliveries += 1
        if self._deliveries <= MAX_DELIVERIES:
            self.span.event("delivery", {"narthex.offset": offset, "narthex.subscribers": subscribers})

    def stopped(self, usage: Sequence[Mapping[str, Any]] = ()) -> None:
        """The agent has returned, failed, or waits for an answer: its calls have no span any more. `usage`: what it
        reported of its models, entries of AG-UI's TokenUsage.
        """
        if not self.recording:
            return
        for (kind, name), span in self._open.items():
            span.end(ended_at=self._asked.get(name) if kind == "tool" else None)
        self._open.clear()
        for name, member in _TOKENS.items():
            if numbers := [number for entry in usage if isinstance(number := entry.get(member), int)]:
                self.agent.set({f"gen_ai.usage.{name}": sum(numbers)})
        self.agent.end(error=self._failure)

    def fail(self, code: str) -> None:
        """The run fails with a code."""
        self._failure = code

    def end(self, ending: Ending) -> None:
        """This node is done with the run."""
        if not self.recording:
            return
        self._failure = ending.code if isinstance(ending, Failed) else self._failure
        self.stopped()
        self.span.set(
            {
                "narthex.run.ending": _WORDS.get(type(ending), "unknown"),
                "narthex.run.publishes": self._publishes,
                "narthex.run.deltas": self._deltas,
                "narthex.run.bytes": self._bytes,
                "narthex.run.calls": self._calls,
                "narthex.run.deliveries": self._deliveries,
            }
        )
        self.span.end(error=self._failure)


NO_RUN_TRACE: Final = RunTrace(NO_SPAN)

_WORDS: Final[dict[type, str]] = {
    Completed: "finished",
    Interrupted: "interrupted",
    Cancelled: "cancelled",
    Failed: "failed",
    Lost: "lost",
    Abandoned: "abandoned",
    GivenBack: "given back",
}


def begin_trace(tracer: Tracer, run: Run) -> RunTrace:
    """The trace of a run that this node begins to work at; its span is that of the current task from now on."""
    parent = decoded_trace(run.trace)
    span = tracer.begin(
        "run",
        kind="consumer",
        parent=parent,
        trusted=True,  # its row was written by a node of this installation
    )
    if span.recording:
        span.set(
            {
                "narthex.run_id": run.run_id,
                "narthex.thread_id": run.thread_id,
                "narthex.parent_run_id": run.parent_run_id,
                "narthex.attempt": run.attempt,
                "narthex.queued_ms": max(0, round((time.time() - run.created_at) * 1000)),
                "narthex.identity_class": run.traffic,
                "gen_ai.agent.name": run.agent,
            }
        )
    CURRENT.set(span)
    return RunTrace(span, run.agent, run.thread_id)


def encoded_trace(span: Span) -> str:
    """The position of `span` for `Run.trace`; empty while tracing is off."""
    return "" if span.context is None else span.context.encoded()
