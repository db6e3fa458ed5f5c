"""The interface of an agent: a coroutine that yields AG-UI events or plain text.

Not here: running agents (`app/runs`), the built-in ones (`adapters/agents`). Guarantees to the agent: one task per run;
cancellation arrives as `asyncio.CancelledError`; clients see nothing that it yields before it is durable. An event is a
plain dict in AG-UI's JSON form (`{"type": "TEXT_MESSAGE_CONTENT", "messageId": …, "delta": …}`), a `str` is a text
delta, and `ask` ends the run with an interrupt while the same coroutine continues in the run that answers it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, overload

import msgspec

from narthex.domain.runs import BUSY

Event = dict[str, Any]
"""One AG-UI event in its JSON form (camelCase members). Any: its members depend on `type`."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool in an earlier message; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str = ""


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as agents see it: `role` is user, assistant, tool or system.

    Attributes:
        name: the author; of a tool's message the tool.
        tool_calls: of an assistant's message, each answered by a tool's message that follows.
        tool_call_id: of a tool's message: the call that it answers.
        error: of a tool's message: why the call failed.
    """

    role: str
    content: str
    message_id: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    error: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question of `RunInput.ask_all`; `reason`, `tool_call_id` and `metadata` are AG-UI's members of an interrupt.

    Attributes:
        schema: see `RunInput.ask`.
        text: the question.
        answerable_by: see `RunInput.ask`.
        reason: why the agent asks, in AG-UI's terms.
        tool_call_id: the call of a tool that waits for the answer.
        metadata: passed to clients as it is.
        question_id: the agent's own id; kept where the tenant has no such question yet.
        dismissable: a dismissal (AG-UI's status `cancelled`) is an answer too: `Answer.payload` is None then. Else it
            ends the run and the agent.
    """

    schema: Mapping[str, Any]
    text: str
    answerable_by: str = ""
    reason: str = "input_required"
    tool_call_id: str = ""
    metadata: dict[str, Any] = {}
    question_id: str = ""
    dismissable: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question. `question_id` is the agent's own id; `status` is `resolved` or `cancelled`."""

    question_id: str
    status: str
    payload: Any


class AgentUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user who started the run; never their token."""

    subject: str
    tenant: str
    plan: str
    name: str = ""
    permissions: tuple[str, ...] = ()
    e2e: bool = False
    test_run: str = ""


class RunInput(Protocol):
    """The input of an agent."""

    @property
    def run_id(self) -> str:
        """This run's id; it changes when `ask` returns."""

    @property
    def thread_id(self) -> str:
        """The thread's id."""

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation, oldest first, ending with the message that began the run."""

    @property
    def user(self) -> AgentUser:
        """The user who started the run."""

    @property
    def steer(self) -> AsyncIterator[str]:
        """Texts that members add while the run goes on (`run.steer`)."""

    @property
    def deadline(self) -> float:
        """The moment at which the gateway ends the run for taking too long, seconds since the epoch."""

    @property
    def attempt(self) -> int:
        """1, or more after a restart (`restartable=True`)."""

    @property
    def state(self) -> Any:
        """The agent's state in this thread: the client's, else as the last run left it; None: there is none."""

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Tools that the client runs, AG-UI's Tool. Call one by its TOOL_CALL events and end the run without a result:
        the next run brings it.
        """

    @property
    def context(self) -> list[dict[str, Any]]:
        """What the client says about its situation, AG-UI's Context."""

    @property
    def forwarded(self) -> dict[str, Any]:
        """AG-UI's `forwardedProps`."""

    @property
    def parent_run_id(self) -> str:
        """The run that this one branches from, as the client says."""

    @property
    def protocol_version(self) -> str:
        """AG-UI's version that the client speaks, as it says; empty: it did not."""

    @property
    def resume(self) -> list[Answer]:
        """Answers to questions of an earlier run whose coroutine is gone; only for agents with `resumable`."""

    def report(self, *, usage: Sequence[Mapping[str, Any]] = (), result: Any = None) -> None:
        """Say what the run used and returned; both stand in its terminal event.

        Args:
            usage: entries of AG-UI's TokenUsage, which are added to those reported before.
            result: RUN_FINISHED's `result`; None leaves the one before.

        Raises:
            ValueError: it cannot be represented exactly in JSON.
        """

    async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """As `ask`, for several questions at once, all of which must be answered. Answers come in their order."""

    async def ask(self, schema: Mapping[str, Any], text: str, *, answerable_by: str = "") -> Any:
        """Ask a person. First close every message that you opened; text yielded as `str` is closed for you.

        Args:
            schema: a JSON Schema of the part that `narthex.domain.answer_schema` checks.
            text: the question.
            answerable_by: which members of the thread may answer: `asker` (the person who began the run), `owner`
                (an owner of the thread), `member` (any), `permission:<name>` (those who have that permission);
                empty: the asker and the owners.

        Returns:
            The payload, valid against `schema`. The agent is in a new run now: `run_id` and `deadline` changed.

        Raises:
            TimeoutError: no answer came in time. No run is open any more: clean up; output is not shown.
            ValueError: the schema uses a keyword that is not checked here, or `answerable_by` is none of these.
        """


class AgentError(Exception):
    """Raise it from an agent to end the run with a message for users.

    Any other exception ends the run too, but only its type is shown, because its message may be confidential.
    `code` replaces `agent_failed` in RUN_ERROR (snake_case).
    """

    def __init__(self, message: str, code: str = "agent_failed") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


AgentFunction = Callable[[RunInput], AsyncIterator["Event | str"]]


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

MAX_SUGGESTIONS = 8
MAX_SUGGESTION_CHARACTERS = 200


@overload
def agent(function: FunctionT, /) -> FunctionT: ...
@overload
def agent(
    *,
    name: str = "",
    restartable: bool = False,
    description: str = "",
    suggestions: Sequence[str] = (),
    busy: str = "enqueue",
) -> Callable[[FunctionT], FunctionT]: ...
def agent(
    function: FunctionT | None = None,
    /,
    *,
    name: str = "",
    restartable: bool = False,
    description: str = "",
    suggestions: Sequence[str] = (),
    busy: str = "enqueue",
) -> Callable[[FunctionT], FunctionT] | FunctionT:
    """Declare an agent function's properties; exported as `narthex.agent`. `@narthex.agent` alone works as well.

    Args:
        function: the agent function, when the decorator is written without parentheses.
        name: its public name; by default the function's.
        restartable: it may run again from the start after its owner died.
        description: one line for people.
        suggestions: first messages that the chat page offers; at most `MAX_SUGGESTIONS` of 1 to 200 characters.
        busy: what a message does in a thread with a run (`narthex.domain.runs.BUSY`), unless the request says.

    Raises:
        ValueError: `suggestions` are too many, or one is empty or too long; `busy` is none of the four.
    """
    if busy not in BUSY:
        raise ValueError(f"narthex.agent: busy is one of {', '.join(BUSY)}, not {busy!r}.")
    offered = _bounded_suggestions(suggestions)

    def mark(function: FunctionT) -> FunctionT:
        function.__narthex_agent__ = {  # type: ignore[attr-defined]  # read by adapters/agents/python.py
            "name": name,
            "restartable": restartable,
            "description": description,
            "suggestions": offered,
            "busy": busy,
        }
        return function

    return mark if function is None else mark(function)


def _bounded_suggestions(suggestions: Sequence[str]) -> tuple[str, ...]:
    offered = (suggestions,) if isinstance(suggestions, str) else tuple(suggestions)
    if len(offered) > MAX_SUGGESTIONS:
        raise ValueError(f"narthex.agent: {len(offered)} suggestions; at most {MAX_SUGGESTIONS} are shown.")
    for text in offered:
        if not 0 < len(text.strip()) <= MAX_SUGGESTION_CHARACTERS:
            raise ValueError(
                f"narthex.agent: a suggestion has {len(text.strip())} characters; "
                f"give 1 to {MAX_SUGGESTION_CHARACTERS}."
            )
    return offered


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """A runnable agent: its public name, its function and its declared properties.

    Attributes:
        name: the name in `run.start`'s `agent` and in mentions.
        function: called once per run (or attempt).
        restartable: it may run again from the start after its owner died.
        description: one line for people.
        suggestions: first messages that the chat page offers when this agent is chosen.
        check: None, or an async callable for health that raises DependencyError when its back end is away.
        close: None, or an async callable that releases the agent's resources; called when the node stops.
        busy: what a message does in a thread with a run, unless the request says.
        resumable: answers may be given to a new call of the function (`RunInput.resume`) where the coroutine that
            asked is gone: the agent's back end remembers where it stopped.
    """

    name: str
    function: AgentFunction
    restartable: bool = False
    description: str = ""
    suggestions: tuple[str, ...] = ()
    check: Callable[[], Any] | None = None
    close: Callable[[], Any] | None = None
    busy: str = "enqueue"
    resumable: bool = False
