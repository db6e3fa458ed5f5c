"""`thread.*` and `typing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from narthex.app.chat import TITLE_CHARS
from narthex.app.rpc.methods import typed, who

if TYPE_CHECKING:
    from narthex.app.connection import Connection

Ident = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$(?!\n)")]
Title = Annotated[str, msgspec.Meta(max_length=TITLE_CHARS)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=200)]


class Create(msgspec.Struct, frozen=True):
    """Params of `thread.create`."""

    title: Title = "New thread"


class List(msgspec.Struct, frozen=True):
    """Params of `thread.list`."""

    before: float | None = None
    before_id: Ident | None = None
    limit: Limit = 50


class Get(msgspec.Struct, frozen=True):
    """Params of `thread.get`."""

    thread_id: Ident
    before: float | None = None
    before_id: Ident | None = None
    limit: Limit = 100


class One(msgspec.Struct, frozen=True):
    """Params of `thread.delete` and `typing`."""

    thread_id: Ident


class Rename(msgspec.Struct, frozen=True):
    """Params of `thread.rename`."""

    thread_id: Ident
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=TITLE_CHARS)]


class OfMember(msgspec.Struct, frozen=True):
    """Params of `thread.members.add` and `.remove`."""

    thread_id: Ident
    user_id: Ident


class Read(msgspec.Struct, frozen=True):
    """Params of `thread.read`."""

    thread_id: Ident
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # what every client's JSON can hold


class Search(msgspec.Struct, frozen=True):
    """Params of `thread.search`."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    limit: Limit = 20


async def _create(connection: Connection, params: Create) -> object:
    return await connection.services.chat.create(who(connection), params.title)


async def _list(connection: Connection, params: List) -> object:
    chat = connection.services.chat
    found = await chat.threads_of(who(connection), params.before, params.limit, params.before_id or "")
    return {"threads": found}


async def _get(connection: Connection, params: Get) -> object:
    chat = connection.services.chat
    return await chat.view(
        who(connection), params.thread_id, params.before, params.limit, params.before_id or ""
    )


async def _rename(connection: Connection, params: Rename) -> object:
    await connection.services.chat.rename(who(connection), params.thread_id, params.title)
    return {}


async def _delete(connection: Connection, params: One) -> object:
    await connection.services.chat.delete(who(connection), params.thread_id)
    return {}


async def _add(connection: Connection, params: OfMember) -> object:
    await connection.services.chat.add_member(who(connection), params.thread_id, params.user_id)
    return {}


async def _remove(connection: Connection, params: OfMember) -> object:
    await connection.services.chat.remove_member(who(connection), params.thread_id, params.user_id)
    return {}


async def _read(connection: Connection, params: Read) -> object:
    await connection.services.chat.mark_read(who(connection), params.thread_id, params.offset)
    return {}


async def _search(connection: Connection, params: Search) -> object:
    return {"hits": await connection.services.chat.search(who(connection), params.text, params.limit)}


async def _typing(connection: Connection, params: One) -> object:
    await connection.services.chat.typing(who(connection), params.thread_id)
    return {}


METHODS: Final = {
    "thread.create": typed(Create, _create),
    "thread.list": typed(List, _list),
    "thread.get": typed(Get, _get),
    "thread.rename": typed(Rename, _rename),
    "thread.delete": typed(One, _delete),
    "thread.members.add": typed(OfMember, _add),
    "thread.members.remove": typed(OfMember, _remove),
    "thread.read": typed(Read, _read),
    "thread.search": typed(Search, _search),
    "typing": typed(One, _typing),
}
