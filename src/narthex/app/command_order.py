"""Orders one connection's commands: those about the same subject take effect in their order of arrival.

Not here: executing them (`connection`). Rules: commands about the same channel, thread or run are executed one after
the other, also when the first of them waits for an engine; commands about different subjects overtake each other
freely. A waiting command keeps the deadline of its arrival, so that a queue is not slower than an engine that is
down. Waiting commands count among those under way (`connection.IN_FLIGHT_LIMIT`). A cancellation waits for no command
of its run: a user who stops a run must not wait behind a text for it; later commands wait for both.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import msgspec

from narthex.domain.channels import thread_channel
from narthex.protocol.commands import (
    ChannelRequest,
    HistoryRequest,
    PublishRequest,
    RefreshRequest,
    RpcRequest,
    SubRefreshRequest,
    SubscribeRequest,
)
from narthex.protocol.session import ReceivedCommand

_OF_CHANNEL: Final = (
    SubscribeRequest,
    ChannelRequest,
    HistoryRequest,
    PublishRequest,
    SubRefreshRequest,
)
_CREDENTIAL: Final = "refresh"  # no channel has this name: theirs have a colon
_ORDERED_METHODS: Final = ("run.", "thread.", "agui.run", "agui.connect")
_CANCEL: Final = "run.cancel"


class _Input(msgspec.Struct, rename="camel"):
    """AG-UI's RunAgentInput, as far as it names a subject."""

    thread_id: str = ""


class _Agui(msgspec.Struct):
    """The params of `agui.run` and `agui.connect`, as far as they name a subject."""

    input: _Input


class _Named(msgspec.Struct):
    """The params of the other RPC methods, as far as they name a subject."""

    thread_id: str | None = None
    run_id: str | None = None


_agui: Final = msgspec.json.Decoder(_Agui).decode
_named: Final = msgspec.json.Decoder(_Named).decode


def subject(command: ReceivedCommand) -> str:
    """The subject of a command; empty when no command needs to wait for it.

    A thread and its channel are one subject: a message and the `subscribe` behind it are in order as well.
    """
    request = command.request
    if isinstance(request, RpcRequest):
        return _subject_of_rpc(request)
    if isinstance(request, _OF_CHANNEL):
        return request.channel
    return _CREDENTIAL if isinstance(request, RefreshRequest) else ""


def _subject_of_rpc(request: RpcRequest) -> str:
    if not request.method.startswith(_ORDERED_METHODS):
        return ""
    try:
        if request.method.startswith("agui."):
            return f"agui {_agui(request.data).input.thread_id}"  # the client's own name, not the thread's id
        named = _named(request.data)
    except (msgspec.DecodeError, RecursionError):
        return ""  # the method reports the fault in its params
    if named.thread_id:
        return thread_channel(named.thread_id)
    return f"run {named.run_id}" if named.run_id else ""


def overtakes(command: ReceivedCommand) -> bool:
    """Whether a command begins at once, though others about its subject are under way."""
    return isinstance(command.request, RpcRequest) and command.request.method == _CANCEL


class WaitingCommand(NamedTuple):
    """A command that waits for those before it.

    Attributes:
        until: loop time by which it must be answered, counted from its arrival.
    """

    command: ReceivedCommand
    until: float


class CommandOrder:
    """The subjects of one connection's commands under way, each with the commands that wait behind it."""

    __slots__ = ("_behind", "_under_way")

    def __init__(self) -> None:
        self._behind: dict[str, deque[WaitingCommand]] = {}
        self._under_way: dict[str, int] = {}  # more than one where one overtook the others

    def __len__(self) -> int:
        return len(self._behind)

    def busy(self, about: str) -> bool:
        """Whether a command about this subject is under way."""
        return about in self._behind

    def began(self, about: str) -> None:
        """A command about this subject continues in a task; later ones wait for `ended`."""
        self._behind.setdefault(about, deque())
        self._under_way[about] = self._under_way.get(about, 0) + 1

    def wait(self, about: str, waiting: WaitingCommand) -> None:
        """Put a command behind those about the same subject."""
        self._behind[about].append(waiting)

    def ended(self, about: str) -> deque[WaitingCommand]:
        """A command under way has ended. Once none is left, returns the waiting ones, for the caller to execute in
        order.
        """
        left = self._under_way.pop(about, 1) - 1
        if left:
            self._under_way[about] = left
            return deque()
        return self._behind.pop(about, deque())
