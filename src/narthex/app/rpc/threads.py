"""`thread.*`, `user.*` and `typing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from narthex.app.chat import TITLE_CHARS
from narthex.app.rpc.basics import NoParams
from narthex.app.rpc.methods import typed, who
from narthex.app.thread_view import OutcomesPlace
from narthex.domain.ids import MAX_EXACT_INTEGER, Ident, Identified
from narthex.domain.plans import LINK_DAYS, MAX_LINK_DAYS

if TYPE_CHECKING:
    from narthex.app.connection import Connection

MANY: Final = 200  # threads of one `thread.leave`: about 0.2 s of the store's writer
Title = Annotated[str, msgspec.Meta(max_length=TITLE_CHARS)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=200)]


class Create(msgspec.Struct, frozen=True):
    """Params of `thread.create`."""

    title: Title = "New thread"


class List(Identified, frozen=True):
    """Params of `thread.list` and `thread.invitations`."""

    before: float | None = None
    before_id: Ident | None = None
    limit: Limit = 50


class Get(Identified, frozen=True):
    """Params of `thread.get`."""

    thread_id: Ident
    before: float | None = None
    before_id: Ident | None = None
    limit: Limit = 100


class Outcomes(Identified, frozen=True):
    """Params of `thread.outcomes`: `outcomes_next` of `thread.get`, or `next` of the page before."""

    thread_id: Ident
    since: float
    before: float | None = None
    before_id: Ident | None = None


class One(Identified, frozen=True):
    """Params of `thread.delete`, `thread.invitation.accept`, `thread.link.get`, `thread.link.revoke` and `typing`."""

    thread_id: Ident


class Rename(Identified, frozen=True):
    """Params of `thread.rename`."""

    thread_id: Ident
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=TITLE_CHARS)]


class OfMember(Identified, frozen=True):
    """Params of `thread.members.add` and `.remove`."""

    thread_id: Ident
    user_id: Ident


Many = Annotated[tuple[Ident, ...], msgspec.Meta(min_length=1, max_length=MANY)]


class OneOrMany(Identified, frozen=True):
    """Params of `thread.leave` and `thread.invitation.decline`: one thread, or up to 200 at once."""

    thread_id: Ident | None = None
    thread_ids: Many | None = None

    def __post_init__(self) -> None:
        """Exactly one of them, and ids."""
        super().__post_init__()
        if (self.thread_id is None) == (self.thread_ids is None):
            raise ValueError("give thread_id or thread_ids")


class OfUser(Identified, frozen=True):
    """Params of `user.block` and `user.unblock`."""

    user_id: Ident


class CreateLink(Identified, frozen=True):
    """Params of `thread.link`."""

    thread_id: Ident
    days: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINK_DAYS)] = LINK_DAYS


class Token(msgspec.Struct, frozen=True):
    """Params of `thread.link.preview` and `thread.join`."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Read(Identified, frozen=True):
    """Params of `thread.read`."""

    thread_id: Ident
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_EXACT_INTEGER)]


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


async def _outcomes(connection: Connection, params: Outcomes) -> object:
    place = OutcomesPlace(since=params.since, before=params.before, before_id=params.before_id or "")
    return await connection.services.chat.outcomes(who(connection), params.thread_id, place)


async def _rename(connection: Connection, params: Rename) -> object:
    await connection.services.chat.rename(who(connection), params.thread_id, params.title)
    return {}


async def _delete(connection: Connection, params: One) -> object:
    await connection.services.chat.delete(who(connection), params.thread_id)
    return {}


async def _add(connection: Connection, params: OfMember) -> object:
    memberships = connection.services.memberships
    return {"state": await memberships.add(who(connection), params.thread_id, params.user_id)}


async def _remove(connection: Connection, params: OfMember) -> object:
    await connection.services.memberships.remove(who(connection), params.thread_id, params.user_id)
    return {}


async def _leave(connection: Connection, params: OneOrMany) -> object:
    memberships, identity = connection.services.memberships, who(connection)
    if params.thread_ids is not None:
        return await memberships.leave(identity, params.thread_ids)
    assert params.thread_id is not None
    await memberships.remove(identity, params.thread_id, identity.subject)
    return {}


async def _invitations(connection: Connection, params: List) -> object:
    found = await connection.services.memberships.invitations(
        who(connection), params.before, params.limit, params.before_id or ""
    )
    return {"invitations": found}


async def _accept(connection: Connection, params: One) -> object:
    await connection.services.memberships.accept(who(connection), params.thread_id)
    return {"thread_id": params.thread_id}


async def _decline(connection: Connection, params: OneOrMany) -> object:
    memberships, identity = connection.services.memberships, who(connection)
    if params.thread_ids is not None:
        return await memberships.decline_all(identity, params.thread_ids)
    assert params.thread_id is not None
    await memberships.decline(identity, params.thread_id)
    return {}


async def _block(connection: Connection, params: OfUser) -> object:
    await connection.services.memberships.block(who(connection), params.user_id)
    return {}


async def _unblock(connection: Connection, params: OfUser) -> object:
    await connection.services.memberships.unblock(who(connection), params.user_id)
    return {}


async def _blocked(connection: Connection, params: NoParams) -> object:  # noqa: ARG001 - every call has one shape
    return {"users": await connection.services.memberships.blocked(who(connection))}


async def _link(connection: Connection, params: CreateLink) -> object:
    links = connection.services.memberships.links
    token, expires_at = await links.make(who(connection), params.thread_id, params.days)
    return {"token": token, "expires_at": expires_at}


async def _link_of(connection: Connection, params: One) -> object:
    found = await connection.services.memberships.links.of_thread(who(connection), params.thread_id)
    shown = ("created_by", "created_at", "expires_at")
    return {"link": found and {name: getattr(found, name) for name in shown}}


async def _revoke_link(connection: Connection, params: One) -> object:
    await connection.services.memberships.links.revoke(who(connection), params.thread_id)
    return {}


async def _preview(connection: Connection, params: Token) -> object:
    found = await connection.services.memberships.links.preview(who(connection), params.token)
    return found if found.role else msgspec.structs.replace(found, thread_id="")


async def _join(connection: Connection, params: Token) -> object:
    return {"thread_id": await connection.services.memberships.links.join(who(connection), params.token)}


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
    "thread.outcomes": typed(Outcomes, _outcomes),
    "thread.rename": typed(Rename, _rename),
    "thread.delete": typed(One, _delete),
    "thread.members.add": typed(OfMember, _add),
    "thread.members.remove": typed(OfMember, _remove),
    "thread.leave": typed(OneOrMany, _leave),
    "thread.invitations": typed(List, _invitations),
    "thread.invitation.accept": typed(One, _accept),
    "thread.invitation.decline": typed(OneOrMany, _decline),
    "thread.link": typed(CreateLink, _link),
    "thread.link.get": typed(One, _link_of),
    "thread.link.revoke": typed(One, _revoke_link),
    "thread.link.preview": typed(Token, _preview),
    "thread.join": typed(Token, _join),
    "user.block": typed(OfUser, _block),
    "user.unblock": typed(OfUser, _unblock),
    "user.blocked": typed(NoParams, _blocked),
    "thread.read": typed(Read, _read),
    "thread.search": typed(Search, _search),
    "typing": typed(One, _typing),
}
