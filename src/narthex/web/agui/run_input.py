"""Parses and checks AG-UI's RunAgentInput, as far as a gateway needs it.

Not here: acting on it (`routes`). Rules: members that the gateway does not use (`state`, `tools`, `context`,
`forwardedProps`) are ignored, because stock clients always send them; input that must not be ignored (pictures, results
of the client's own tools) is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from narthex.errors import ClientError
from narthex.ports.broker import Position

Named = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]

_EVENT_ID: Final = re.compile(r"^(\d{1,15})-([!-~]{1,200})$")


class ResumeEntry(msgspec.Struct, frozen=True, rename="camel"):
    """An answer to an interrupt."""

    interrupt_id: Named
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class InputMessage(msgspec.Struct, frozen=True):
    """A message; the form of `content` depends on `role`."""

    role: str
    id: str = ""
    content: msgspec.Raw = msgspec.Raw(b"null")


class RunAgentInput(msgspec.Struct, frozen=True, rename="camel"):
    """See the module. The gateway keeps the thread's messages: of those sent it uses only the last user message."""

    thread_id: Named
    run_id: Named
    messages: list[InputMessage]
    resume: list[ResumeEntry] | None = None


class UserMessage(msgspec.Struct, frozen=True):
    """A person's message: its id as the client has it, and its text."""

    message_id: str
    text: str


def parse(body: bytes) -> RunAgentInput:
    """Decode a request. Raises ClientError `bad_body` (422), which names the place and never a value."""
    try:
        return msgspec.json.decode(body, type=RunAgentInput)
    except (msgspec.DecodeError, RecursionError) as fault:
        raise ClientError("bad_body", f"{fault}.", "Send AG-UI's RunAgentInput.", number=422) from fault


def last_user_message(asked: RunAgentInput) -> UserMessage:
    """The last user message.

    Raises:
        ClientError: `no_user_message`, `tool_results_not_taken`, `content_not_text` (422).
    """
    for message in reversed(asked.messages):
        if message.role == "tool":
            raise ClientError(
                "tool_results_not_taken",
                "A tool's result follows the last user message; agents here do not call a client's tools.",
                "Send a user message, or answer an interrupt with `resume`.",
                number=422,
            )
        if message.role == "user":
            text = _text(_content(message.content))
            if not message.id or not text.strip():
                break
            return UserMessage(message.id, text)
    raise ClientError(
        "no_user_message",
        "No user message in the request has an id and a text.",
        "Send one, or answer an interrupt with `resume`.",
        number=422,
    )


def _content(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as fault:  # JSON that no program can hold, as 1e999
        raise ClientError(
            "bad_body", f"{fault} - at `$.messages[...].content`.", "Send AG-UI's RunAgentInput.", number=422
        ) from fault


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


def answer_of(asked: RunAgentInput) -> ResumeEntry | None:
    """The one answer in a request; None without answers.

    Raises:
        ClientError: `bad_body` (422): a run of narthex asks one question at a time.
    """
    if not asked.resume:
        return None
    if len(asked.resume) > 1:
        raise ClientError(
            "bad_body", "`resume` has more than one entry.", "A run asks one question at a time.", number=422
        )
    return asked.resume[0]


def event_id(offset: int, epoch: str) -> bytes:
    """The `id` of a server-sent event: the channel's position after it."""
    return b"%d-%s" % (offset, epoch.encode())


def position_of(last_event_id: str) -> Position:
    """The inverse of `event_id`. Raises ClientError `bad_last_event_id` (400)."""
    match = _EVENT_ID.match(last_event_id)
    if match is None:
        raise ClientError(
            "bad_last_event_id",
            "Last-Event-ID is not an id of this stream.",
            "Send the last `id` unchanged, or omit the header.",
        )
    return Position(int(match[1]), match[2])
