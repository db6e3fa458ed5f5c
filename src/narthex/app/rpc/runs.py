"""`run.*`: start, cancel, steer, resume, get."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from narthex.app.handshake_trace import HandshakeTracer
from narthex.app.quotas import Quotas
from narthex.app.rpc.methods import Method, typed
from narthex.app.runs.requests import RunRequests
from narthex.app.starting import RunStarter, Started, bounded
from narthex.domain.agent_input import AgentInput, ToolResult
from narthex.domain.channels import thread_channel
from narthex.domain.identity import Identity
from narthex.domain.ids import MAX_ID_LENGTH, Ident, Identified
from narthex.domain.runs import TERMINAL, run_active
from narthex.errors import ClientError
from narthex.ports.tracing import current_span, ending, within

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Beside(Identified, frozen=True, kw_only=True):
    """What a client sends to an agent beside the message, as AG-UI's RunAgentInput has it; `forwarded` are its
    `forwardedProps`. `busy`: see `domain.runs.BUSY`.
    """

    state: Any = None
    tools: tuple[dict[str, Any], ...] = ()
    context: tuple[dict[str, Any], ...] = ()
    forwarded: dict[str, Any] = msgspec.field(default_factory=dict)
    busy: Literal["", "enqueue", "reject", "interrupt", "steer"] = ""

    def given(self, *results: ToolResult) -> AgentInput:
        """As the run has it."""
        return AgentInput(
            state=self.state,
            tools=list(self.tools),
            context=list(self.context),
            forwarded={name: value for name, value in self.forwarded.items() if name != "narthex"},
            results=list(results),
        )


class Start(Beside, frozen=True, kw_only=True):
    """Params of `run.start`."""

    text: Text
    client_message_id: Ident
    thread_id: Ident | None = None
    agent: Ident | None = None


class Returned(msgspec.Struct, frozen=True):
    """The result of one call of a tool that the client ran."""

    tool_call_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    content: str
    error: str = ""


class Results(Beside, frozen=True, kw_only=True):
    """Params of `run.tool_result`: the results of all calls that the run ended for."""

    run_id: Ident
    results: Annotated[tuple[Returned, ...], msgspec.Meta(min_length=1, max_length=100)]


class OfRun(Identified, frozen=True):
    """Params of `run.cancel` and `run.get`."""

    run_id: Ident


class Steer(Identified, frozen=True):
    """Params of `run.steer`."""

    run_id: Ident
    text: Text


class Resume(Identified, frozen=True):
    """Params of `run.resume`."""

    run_id: Ident
    interrupt_id: Ident
    payload: msgspec.Raw


_ENDED: Final = frozenset(str(state) for state in TERMINAL)


def _begun(started: Started) -> dict[str, object]:
    run = started.run
    return {
        "thread_id": run.thread_id,
        "run_id": run.run_id,
        "message_id": started.steered_by or run.message_id,
        "channel": thread_channel(run.thread_id),
        "queued": started.queued,
        **({"steered": True} if started.steered_by else {}),
    }


class RunMethods:
    """`run.*`.

    Args:
        starter: starts runs.
        requests: operations on existing ones.
        quotas: messages a minute.
        traces: continues the trace that a client names in `forwarded`; None: tracing is off.
    """

    def __init__(
        self,
        starter: RunStarter,
        requests: RunRequests,
        quotas: Quotas,
        traces: HandshakeTracer | None = None,
    ) -> None:
        self._starter = starter
        self._requests = requests
        self._quotas = quotas
        self._traces = traces

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "run.start": typed(Start, self._start),
            "run.cancel": typed(OfRun, lambda who, p: self._requests.cancel(who, p.run_id)),
            "run.steer": typed(Steer, self._steer),
            "run.resume": typed(Resume, self._resume),
            "run.tool_result": typed(Results, self._tool_result),
            "run.get": typed(OfRun, lambda who, p: self._requests.get(who, p.run_id)),
        }

    async def _start(self, identity: Identity, params: Start) -> object:
        span = None
        if self._traces is not None and params.forwarded:
            span = self._traces.continued(params.forwarded, "run.start", current_span())
        if span is None:
            return await self._started(identity, params)
        with ending(span), within(span):
            return await self._started(identity, params)

    async def _started(self, identity: Identity, params: Start) -> object:
        started = await self._starter.start(
            identity,
            text=params.text,
            client_message_id=params.client_message_id,
            thread_id=params.thread_id,
            agent=params.agent,
            given=params.given(),
            busy=params.busy,
        )
        return _begun(started)

    async def _tool_result(self, identity: Identity, params: Results) -> object:
        """The run goes on in a new one; results of the same run again give the same one."""
        asked = await self._requests.get(identity, params.run_id)
        if asked["state"] not in _ENDED:
            raise run_active()
        results = [
            ToolResult(
                tool_call_id=one.tool_call_id,
                content=one.content,
                error=one.error,
                message_id=f"{params.run_id}.{one.tool_call_id}"[:MAX_ID_LENGTH],
            )
            for one in params.results
        ]
        bounded("".join(result.content for result in results))
        started = await self._starter.start(
            identity,
            text="",
            client_message_id=f"tool:{params.run_id}",
            thread_id=str(asked["thread_id"]),
            agent=str(asked["agent"]),
            message_id=results[-1].message_id,
            given=params.given(*results),
            busy=params.busy,
        )
        return _begun(started)

    async def _steer(self, identity: Identity, params: Steer) -> object:
        bounded(params.text)
        self._quotas.take_message(identity)
        return await self._requests.steer(identity, params.run_id, params.text)

    async def _resume(self, identity: Identity, params: Resume) -> object:
        try:
            payload = msgspec.json.decode(params.payload)
        except (msgspec.DecodeError, RecursionError) as fault:  # JSON that no program can hold, as 1e999
            raise ClientError("bad_params", f"{fault} - at `$.payload`.", "See docs/protocol.md.") from fault
        return await self._requests.resume(identity, params.run_id, params.interrupt_id, payload)
