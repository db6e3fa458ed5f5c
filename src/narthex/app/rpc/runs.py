"""`run.*`: start, cancel, steer, resume, get."""

from __future__ import annotations

from typing import Annotated

import msgspec

from narthex.app.quotas import Quotas
from narthex.app.rpc.methods import Method, typed
from narthex.app.runs.requests import RunRequests
from narthex.app.starting import RunStarter, bounded
from narthex.domain.channels import thread_channel
from narthex.domain.identity import Identity
from narthex.domain.ids import Ident, Identified
from narthex.errors import ClientError

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Start(Identified, frozen=True):
    """Params of `run.start`."""

    text: Text
    client_message_id: Ident
    thread_id: Ident | None = None
    agent: Ident | None = None


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


class RunMethods:
    """`run.*`.

    Args:
        starter: starts runs.
        requests: operations on existing ones.
        quotas: messages a minute.
    """

    def __init__(self, starter: RunStarter, requests: RunRequests, quotas: Quotas) -> None:
        self._starter = starter
        self._requests = requests
        self._quotas = quotas

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "run.start": typed(Start, self._start),
            "run.cancel": typed(OfRun, lambda who, p: self._requests.cancel(who, p.run_id)),
            "run.steer": typed(Steer, self._steer),
            "run.resume": typed(Resume, self._resume),
            "run.get": typed(OfRun, lambda who, p: self._requests.get(who, p.run_id)),
        }

    async def _start(self, identity: Identity, params: Start) -> object:
        started = await self._starter.start(
            identity,
            text=params.text,
            client_message_id=params.client_message_id,
            thread_id=params.thread_id,
            agent=params.agent,
        )
        run = started.run
        return {
            "thread_id": run.thread_id,
            "run_id": run.run_id,
            "message_id": run.message_id,
            "channel": thread_channel(run.thread_id),
            "queued": started.queued,
        }

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
