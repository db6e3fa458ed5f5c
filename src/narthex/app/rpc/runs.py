"""`run.*`: start, cancel, steer, resume, get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from narthex.app.rpc.methods import typed, who
from narthex.app.starting import bounded, start_run
from narthex.domain.channels import thread_channel
from narthex.domain.ids import Ident, Identified
from narthex.errors import ClientError

if TYPE_CHECKING:
    from narthex.app.connection import Connection

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


async def _start(connection: Connection, params: Start) -> object:
    services = connection.services
    started = await start_run(
        services.chat,
        services.engine,
        services.quotas,
        who(connection),
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


async def _cancel(connection: Connection, params: OfRun) -> object:
    return await connection.services.engine.requests.cancel(who(connection), params.run_id)


async def _steer(connection: Connection, params: Steer) -> object:
    bounded(params.text)
    connection.services.quotas.take_message(who(connection))
    return await connection.services.engine.requests.steer(who(connection), params.run_id, params.text)


async def _resume(connection: Connection, params: Resume) -> object:
    try:
        payload = msgspec.json.decode(params.payload)
    except (msgspec.DecodeError, RecursionError) as fault:  # JSON that no program can hold, as 1e999
        raise ClientError("bad_params", f"{fault} - at `$.payload`.", "See docs/protocol.md.") from fault
    engine = connection.services.engine
    return await engine.requests.resume(who(connection), params.run_id, params.interrupt_id, payload)


async def _get(connection: Connection, params: OfRun) -> object:
    return await connection.services.engine.requests.get(who(connection), params.run_id)


METHODS: Final = {
    "run.start": typed(Start, _start),
    "run.cancel": typed(OfRun, _cancel),
    "run.steer": typed(Steer, _steer),
    "run.resume": typed(Resume, _resume),
    "run.get": typed(OfRun, _get),
}
