"""Parses and checks AG-UI's RunAgentInput, as far as a gateway needs it.

Not here: acting on it (`requests`). Rules: the gateway keeps the thread's messages, so of those sent it uses only what
is new: the last user message, or the results of the client's own tools that follow it; `state`, `tools`, `context` and
`forwardedProps` go to the agent as they are; input that must not be ignored (pictures) is refused.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

import msgspec

from narthex.domain.agent_input import AgentInput, ToolResult
from narthex.domain.digest import canonical
from narthex.domain.ids import valid_id
from narthex.domain.json_depth import MAX_EVENT_DEPTH, json_depth_exceeds
from narthex.domain.runs import BUSY
from narthex.errors import ClientError

Named = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]

MAX_RESULTS: Final = 100  # of tools, in one request
MAX_ANSWERS: Final = 20


class ResumeEntry(msgspec.Struct, frozen=True, rename="camel"):
    """An answer to an interrupt."""

    interrupt_id: Named
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class InputMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A message; the form of `content` depends on `role`."""

    role: str
    id: str = ""
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_call_id: str | None = None
    error: str | None = None


class Wishes(msgspec.Struct, frozen=True, rename="camel"):
    """`forwardedProps.narthex`: what the client asks of the gateway itself.

    Attributes:
        on_disconnect: `cancel`: a client that leaves the stream cancels the run.
        busy: see `domain.runs.BUSY`; empty: as the agent declares.
        input: whether RUN_STARTED carries the input.
        connect: replay the thread and follow its runs until none is left, instead of a run.
        follow: with `connect`: go on when none is left.
    """

    on_disconnect: Literal["", "continue", "cancel"] = ""
    busy: str = ""
    input: bool = False
    connect: bool = False
    follow: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError, which the decoder turns into its own error."""
        if self.busy and self.busy not in BUSY:
            raise ValueError(f"Expected `busy` to be one of {', '.join(BUSY)}")


class RunAgentInput(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """See the module."""

    thread_id: Named
    run_id: Named
    messages: list[InputMessage]
    state: Any = None
    tools: list[dict[str, Any]] | None = None
    context: list[dict[str, Any]] | None = None
    forwarded_props: Any = None
    protocol_version: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    parent_run_id: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    resume: list[ResumeEntry] | None = None


class RequestEnvelope(msgspec.Struct, frozen=True):
    """CopilotKit's single-endpoint transport: the request inside `{method, params, body}`."""

    method: Literal["agent/run", "agent/connect", "agent/stop", "info"]
    params: dict[str, Any] = {}
    body: msgspec.Raw = msgspec.Raw(b"{}")


class Stop(msgspec.Struct, frozen=True, rename="camel"):
    """The body of CopilotKit's stop: the run, where the page knows it."""

    run_id: str = ""


class UserMessage(msgspec.Struct, frozen=True):
    """A person's message: its id as the client has it, and its text."""

    message_id: str
    text: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request, as far as the gateway acts on it.

    Attributes:
        thread_id: the client's name of the thread.
        run_id: the client's name of the run.
        message: the new user message; None: the run goes on without one.
        given: what goes to the agent beside it.
        resume: answers to interrupts.
        wishes: what the client asks of the gateway.
    """

    thread_id: str
    run_id: str
    message: UserMessage | None
    given: AgentInput
    resume: tuple[ResumeEntry, ...]
    wishes: Wishes


def parse(body: bytes, *, connect: bool = False) -> Asked:
    """Decode a request; with `connect`, one that needs no message.

    Raises:
        ClientError: `bad_body` (422), which names the place and never a value; `no_user_message`, `content_not_text`
            (422).
    """
    if json_depth_exceeds(body, MAX_EVENT_DEPTH):
        raise _bad_body(f"It nests deeper than {MAX_EVENT_DEPTH} levels.")
    try:
        sent = msgspec.json.decode(body, type=RunAgentInput)
        props = sent.forwarded_props if isinstance(sent.forwarded_props, dict) else {}
        wishes = msgspec.convert(props.get("narthex") or {}, Wishes)
    except (msgspec.DecodeError, RecursionError, ValueError) as fault:
        raise _bad_body(f"{fault}.") from fault
    for name in (sent.thread_id, sent.run_id):
        if not valid_id(name):
            raise _bad_body("`threadId` and `runId` are 1 to 255 printable characters.")
    resume = tuple(sent.resume or ())
    if len(resume) > MAX_ANSWERS:
        raise _bad_body(f"`resume` has {len(resume)} entries; at most {MAX_ANSWERS}.")
    connect = connect or wishes.connect
    message, results = (None, []) if resume or connect else _news(sent.messages)
    given = AgentInput(
        thread_id=sent.thread_id,
        run_id=sent.run_id,
        state=sent.state or None,  # stock clients that have none send {}
        tools=sent.tools or [],
        context=sent.context or [],
        forwarded={name: value for name, value in props.items() if name != "narthex"},
        protocol_version=sent.protocol_version or "",
        parent_run_id=sent.parent_run_id or "",
        results=results,
        show_input=wishes.input,
    )
    _check_shown(given)
    return Asked(
        thread_id=sent.thread_id,
        run_id=sent.run_id,
        message=message,
        given=given,
        resume=resume,
        wishes=wishes,
    )


def _check_shown(given: AgentInput) -> None:
    """Refuse an input that shall stand in RUN_STARTED and that no event can hold. Raises ClientError `bad_body`."""
    if (shown := given.shown("", "")) is None:
        return
    try:
        exact = canonical({"type": "RUN_STARTED", "input": shown})
    except ValueError as fault:
        raise _bad_body("With `input`, no number may be outside the range of a double.") from fault
    if json_depth_exceeds(exact, MAX_EVENT_DEPTH):
        most = MAX_EVENT_DEPTH - 2
        raise _bad_body(f"With `input`, `state` and the rest nest at most {most} levels deep.")


def opened(body: bytes) -> RequestEnvelope | None:
    """The envelope of a request in CopilotKit's single-endpoint transport; None: it is a plain RunAgentInput."""
    try:
        return msgspec.json.decode(body, type=RequestEnvelope)
    except (msgspec.DecodeError, RecursionError):
        return None


def stopped_run(body: bytes) -> str:
    """The client's name of the run that a stop is for; empty: it names none."""
    try:
        return msgspec.json.decode(body, type=Stop).run_id
    except (msgspec.DecodeError, RecursionError):
        return ""


def _bad_body(words: str) -> ClientError:
    return ClientError("bad_body", words, "Send AG-UI's RunAgentInput.", number=422)


def _news(messages: list[InputMessage]) -> tuple[UserMessage | None, list[ToolResult]]:
    """What the gateway does not have yet: the last user message, or results of tools after it."""
    results: list[ToolResult] = []
    for message in reversed(messages):
        if message.role == "tool":
            results.insert(0, _result(message))
            if len(results) > MAX_RESULTS:
                raise _bad_body(f"More than {MAX_RESULTS} results of tools follow the last message.")
        elif results:
            return None, results
        elif message.role == "user":
            text = _text(_content(message.content))
            if not message.id or not text.strip():
                break
            return UserMessage(message.id, text), []
    if results:
        return None, results
    raise ClientError(
        "no_user_message",
        "No user message in the request has an id and a text.",
        "Send one, the result of a tool, or answer an interrupt with `resume`.",
        number=422,
    )


def _result(message: InputMessage) -> ToolResult:
    if not message.id or not message.tool_call_id:
        raise _bad_body("A message of role `tool` needs `id` and `toolCallId`.")
    return ToolResult(
        tool_call_id=message.tool_call_id,
        content=_text(_content(message.content)),
        # A key of the broker and an id of the thread: one that neither takes is replaced, the same by the same.
        message_id=message.id
        if valid_id(message.id)
        else hashlib.sha256(message.id.encode()).hexdigest()[:32],
        error=message.error or "",
    )


def _content(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as fault:  # JSON that no program can hold, as 1e999
        raise _bad_body(f"{fault} - at `$.messages[...].content`.") from fault


def _text(content: Any) -> str:
    """A message's text, which may be in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise ClientError(
            "content_not_text", "The message has parts that are not text.", "Send text only.", number=422
        )
    return "\n".join(str(text) for text in texts)
