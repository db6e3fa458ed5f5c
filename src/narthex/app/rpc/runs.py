"""`run.*`: start, cancel, steer, resume, get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from narthex.app.chat import TEXT_BYTES, derived_id
from narthex.app.rpc.methods import typed, who
from narthex.app.rpc.threads import Ident
from narthex.domain.channels import thread_channel
from narthex.errors import ClientError

if TYPE_CHECKING:
    from narthex.app.connection import Connection

_TITLE_FROM_TEXT: Final = 60  # characters of the first message that name a thread begun by it

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Start(msgspec.Struct, frozen=True):
    """Params of `run.start`."""

    text: Text
    client_message_id: Ident
    thread_id: Ident | None = None
    agent: Ident | None = None


class OfRun(msgspec.Struct, frozen=True):
    """Params of `run.cancel` and `run.get`."""

    run_id: Ident


class Steer(msgspec.Struct, frozen=True):
    """Params of `run.steer`."""

    run_id: Ident
    text: Text


class Resume(msgspec.Struct, frozen=True):
    """Params of `run.resume`."""

    run_id: Ident
    interrupt_id: Ident
    payload: msgspec.Raw


async def _start(connection: Connection, params: Start) -> object:
    """Steps in an order that makes a repeat after any crash give the same run and no second message: known
    already? → thread → message → run row. Ids derive from the user and `client_message_id`.
    """
    services, identity = connection.services, who(connection)
    known = await services.chat.run_of_message(identity, params.client_message_id)
    if known is not None:
        return _started(known.thread_id, known.run_id, known.message_id, queued=known.state == "queued")
    _bounded(params.text)
    agent = services.engine.choose(params.agent, params.text)
    services.quotas.take_message(identity)
    if params.thread_id is None:
        thread_id = derived_id("thread", identity, params.client_message_id)
        await services.chat.create(identity, _title(params.text), thread_id)
    else:
        thread_id = params.thread_id
        await services.chat.require(identity, thread_id)
    message_id = derived_id("message", identity, params.client_message_id)
    await services.chat.post(identity, thread_id, message_id, params.text)
    run, queued = await services.engine.start(
        identity, thread_id, message_id, params.text, params.client_message_id, agent.name
    )
    return _started(run.thread_id, run.run_id, run.message_id, queued=queued)


def _started(thread_id: str, run_id: str, message_id: str, *, queued: bool) -> object:
    return {
        "thread_id": thread_id,
        "run_id": run_id,
        "message_id": message_id,
        "channel": thread_channel(thread_id),
        "queued": queued,
    }


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_FROM_TEXT else line[: _TITLE_FROM_TEXT - 1] + "…"


def _bounded(text: str) -> None:
    if len(text.encode()) > TEXT_BYTES:
        raise ClientError(
            "text_too_large", f"The text is over {TEXT_BYTES // 1024} KB.", "Send it in parts.", number=413
        )


async def _cancel(connection: Connection, params: OfRun) -> object:
    return await connection.services.engine.cancel(who(connection), params.run_id)


async def _steer(connection: Connection, params: Steer) -> object:
    _bounded(params.text)
    connection.services.quotas.take_message(who(connection))
    return await connection.services.engine.steer(who(connection), params.run_id, params.text)


async def _resume(connection: Connection, params: Resume) -> object:
    if len(bytes(params.payload)) > TEXT_BYTES:
        raise ClientError("payload_too_large", "The payload is over 32 KB.", "Send less.", number=413)
    payload = msgspec.json.decode(params.payload)
    engine = connection.services.engine
    return await engine.resume(who(connection), params.run_id, params.interrupt_id, payload)


async def _get(connection: Connection, params: OfRun) -> object:
    return await connection.services.engine.get(who(connection), params.run_id)


METHODS: Final = {
    "run.start": typed(Start, _start),
    "run.cancel": typed(OfRun, _cancel),
    "run.steer": typed(Steer, _steer),
    "run.resume": typed(Resume, _resume),
    "run.get": typed(OfRun, _get),
}
