"""Types of the AG-UI events that narthex publishes on `thread:<id>` channels (docs/protocol.md).

Not here: order and completeness (`assembler`). Rules: types only. An event is a plain dict, exactly as it came over
the wire; narrow it by `event["type"]`. New members and new types may appear: an event of an unknown type is `Other`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict


class Envelope(TypedDict, total=False):
    """Members that every event may have; a person's message and a notice have neither `runId` nor `seq`."""

    threadId: str
    runId: str
    seq: int
    seq_from: int
    timestamp: int


class RunStarted(Envelope):
    """A run began; `parentRunId` names the run whose question it answers."""

    type: Literal["RUN_STARTED"]
    parentRunId: NotRequired[str]


class Interrupt(TypedDict):
    """A question to a person: the run ends with it, and `Run.resume` with an answer opens the next run."""

    id: str
    reason: NotRequired[str]
    message: NotRequired[str]
    responseSchema: NotRequired[Any]
    expiresAt: NotRequired[str | float]
    metadata: NotRequired[Mapping[str, Any]]


class Outcome(TypedDict):
    """How a run finished; `interrupts` with `interrupt` only."""

    type: Literal["success", "cancelled", "interrupt"]
    interrupts: NotRequired[list[Interrupt]]


class RunFinished(Envelope):
    """The run ended; `count` and `digest` verify that its events are complete."""

    type: Literal["RUN_FINISHED"]
    result: NotRequired[Any]
    outcome: NotRequired[Outcome | str]
    count: NotRequired[int]
    digest: NotRequired[str]


class RunError(Envelope):
    """The run failed; `count` and `digest` as in `RunFinished`."""

    type: Literal["RUN_ERROR"]
    message: str
    code: NotRequired[str]
    count: NotRequired[int]
    digest: NotRequired[str]


class Step(Envelope):
    """A named step began or ended."""

    type: Literal["STEP_STARTED", "STEP_FINISHED"]
    stepName: str


class TextStart(Envelope):
    """A message begins; `name` is the author of a person's message (`role: "user"`)."""

    type: Literal["TEXT_MESSAGE_START"]
    messageId: str
    role: str
    name: NotRequired[str]


class TextContent(Envelope):
    """More text of a message."""

    type: Literal["TEXT_MESSAGE_CONTENT"]
    messageId: str
    delta: str


class TextEnd(Envelope):
    """A message is whole."""

    type: Literal["TEXT_MESSAGE_END"]
    messageId: str


class TextChunk(Envelope):
    """A whole message in one event, which is the form of a person's message."""

    type: Literal["TEXT_MESSAGE_CHUNK"]
    messageId: NotRequired[str]
    role: NotRequired[str]
    name: NotRequired[str]
    delta: NotRequired[str]


class Reasoning(Envelope):
    """Reasoning, or a part of it, begins or ends."""

    type: Literal["REASONING_START", "REASONING_END", "REASONING_MESSAGE_START", "REASONING_MESSAGE_END"]
    messageId: str


class ReasoningContent(Envelope):
    """More text of the reasoning."""

    type: Literal["REASONING_MESSAGE_CONTENT"]
    messageId: str
    delta: str


class ToolCallStart(Envelope):
    """The agent calls a tool."""

    type: Literal["TOOL_CALL_START"]
    toolCallId: str
    toolCallName: str
    parentMessageId: NotRequired[str]


class ToolCallArgs(Envelope):
    """More of the arguments' JSON text."""

    type: Literal["TOOL_CALL_ARGS"]
    toolCallId: str
    delta: str


class ToolCallEnd(Envelope):
    """The arguments are whole; the tool runs."""

    type: Literal["TOOL_CALL_END"]
    toolCallId: str


class ToolCallResult(Envelope):
    """The tool's result: text, or AG-UI's multimodal form."""

    type: Literal["TOOL_CALL_RESULT"]
    toolCallId: str
    messageId: NotRequired[str]
    content: str | list[Any]


class Custom(Envelope):
    """An application's event; names that begin with `narthex.` are the gateway's own."""

    type: Literal["CUSTOM"]
    name: str
    value: NotRequired[Any]


class State(Envelope):
    """Shared state, messages and activities."""

    type: Literal["STATE_SNAPSHOT", "STATE_DELTA", "MESSAGES_SNAPSHOT", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA"]


class Other(Envelope):
    """A type that this version does not know."""

    type: Literal["RAW"]


AguiEvent = (
    RunStarted
    | RunFinished
    | RunError
    | Step
    | TextStart
    | TextContent
    | TextEnd
    | TextChunk
    | Reasoning
    | ReasoningContent
    | ToolCallStart
    | ToolCallArgs
    | ToolCallEnd
    | ToolCallResult
    | Custom
    | State
    | Other
)
"""One event; narrow it by `event["type"]`."""
