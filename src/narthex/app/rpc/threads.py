"""`thread.*`, `user.*` and `typing`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from narthex.app.chat import TITLE_CHARS, Chat
from narthex.app.memberships import MembershipService
from narthex.app.rpc.basics import NoParams
from narthex.app.rpc.methods import Method, typed
from narthex.app.thread_view import OutcomesPlace
from narthex.domain.identity import Identity
from narthex.domain.ids import MAX_EXACT_INTEGER, Ident, Identified
from narthex.domain.moments import MOMENT_RULE, valid_moment
from narthex.domain.plans import LINK_DAYS, MAX_LINK_DAYS

MANY: Final = 200  # threads of one `thread.leave`: about 0.2 s of the store's writer
Title = Annotated[str, msgspec.Meta(max_length=TITLE_CHARS)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=200)]


class Create(msgspec.Struct, frozen=True):
    """Params of `thread.create`."""

    title: Title = "New thread"


class PageParams(Identified, frozen=True, kw_only=True):
    """Params that say after which row a page begins, by its moment and its id."""

    before: float | None = None
    before_id: Ident | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a moment in milliseconds: an answer to it would be the first page again."""
        super().__post_init__()
        for name in ("before", "since"):
            if not valid_moment(getattr(self, name, None) or 0.0):
                raise ValueError(f"Expected `{name}` in {MOMENT_RULE}")


class List(PageParams, frozen=True, kw_only=True):
    """Params of `thread.list` and `thread.invitations`."""

    limit: Limit = 50


class Get(PageParams, frozen=True, kw_only=True):
    """Params of `thread.get`."""

    thread_id: Ident
    limit: Limit = 100


class Outcomes(PageParams, frozen=True, kw_only=True):
    """Params of `thread.outcomes`: `outcomes_next` of `thread.get`, or `next` of the page before."""

    thread_id: Ident
    since: float


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


class ThreadMethods:
    """`thread.*`, `user.*` and `typing`."""

    def __init__(self, chat: Chat, memberships: MembershipService) -> None:
        self._chat = chat
        self._memberships = memberships
        self._links = memberships.links

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        chat, memberships, links = self._chat, self._memberships, self._links
        return {
            "thread.create": typed(Create, lambda who, p: chat.create(who, p.title)),
            "thread.list": typed(List, self._list),
            "thread.get": typed(
                Get, lambda who, p: chat.view(who, p.thread_id, p.before, p.limit, p.before_id or "")
            ),
            "thread.outcomes": typed(Outcomes, self._outcomes),
            "thread.rename": typed(Rename, lambda who, p: chat.rename(who, p.thread_id, p.title)),
            "thread.delete": typed(One, lambda who, p: chat.delete(who, p.thread_id)),
            "thread.members.add": typed(OfMember, self._add),
            "thread.members.remove": typed(
                OfMember, lambda who, p: memberships.remove(who, p.thread_id, p.user_id)
            ),
            "thread.leave": typed(OneOrMany, self._leave),
            "thread.invitations": typed(List, self._invitations),
            "thread.invitation.accept": typed(One, self._accept),
            "thread.invitation.decline": typed(OneOrMany, self._decline),
            "thread.link": typed(CreateLink, self._link),
            "thread.link.get": typed(One, self._link_of),
            "thread.link.revoke": typed(One, lambda who, p: links.revoke(who, p.thread_id)),
            "thread.link.preview": typed(Token, self._preview),
            "thread.join": typed(Token, self._join),
            "user.block": typed(OfUser, lambda who, p: memberships.block(who, p.user_id)),
            "user.unblock": typed(OfUser, lambda who, p: memberships.unblock(who, p.user_id)),
            "user.blocked": typed(NoParams, self._blocked),
            "thread.read": typed(Read, lambda who, p: chat.mark_read(who, p.thread_id, p.offset)),
            "thread.search": typed(Search, self._search),
            "typing": typed(One, lambda who, p: chat.typing(who, p.thread_id)),
        }

    async def _list(self, identity: Identity, params: List) -> object:
        found = await self._chat.threads_of(identity, params.before, params.limit, params.before_id or "")
        return {"threads": found}

    async def _outcomes(self, identity: Identity, params: Outcomes) -> object:
        place = OutcomesPlace(since=params.since, before=params.before, before_id=params.before_id or "")
        return await self._chat.outcomes(identity, params.thread_id, place)

    async def _add(self, identity: Identity, params: OfMember) -> object:
        return {"state": await self._memberships.add(identity, params.thread_id, params.user_id)}

    async def _leave(self, identity: Identity, params: OneOrMany) -> object:
        if params.thread_ids is not None:
            return await self._memberships.leave(identity, params.thread_ids)
        assert params.thread_id is not None
        await self._memberships.remove(identity, params.thread_id, identity.subject)
        return None

    async def _invitations(self, identity: Identity, params: List) -> object:
        found = await self._memberships.invitations(
            identity, params.before, params.limit, params.before_id or ""
        )
        return {"invitations": found}

    async def _accept(self, identity: Identity, params: One) -> object:
        await self._memberships.accept(identity, params.thread_id)
        return {"thread_id": params.thread_id}

    async def _decline(self, identity: Identity, params: OneOrMany) -> object:
        if params.thread_ids is not None:
            return await self._memberships.decline_all(identity, params.thread_ids)
        assert params.thread_id is not None
        await self._memberships.decline(identity, params.thread_id)
        return None

    async def _blocked(self, identity: Identity, params: NoParams) -> object:  # noqa: ARG002 - every call has one shape
        return {"users": await self._memberships.blocked(identity)}

    async def _link(self, identity: Identity, params: CreateLink) -> object:
        token, expires_at = await self._links.make(identity, params.thread_id, params.days)
        return {"token": token, "expires_at": expires_at}

    async def _link_of(self, identity: Identity, params: One) -> object:
        found = await self._links.of_thread(identity, params.thread_id)
        shown = ("created_by", "created_at", "expires_at")
        return {"link": found and {name: getattr(found, name) for name in shown}}

    async def _preview(self, identity: Identity, params: Token) -> object:
        found = await self._links.preview(identity, params.token)
        return found if found.role else msgspec.structs.replace(found, thread_id="")

    async def _join(self, identity: Identity, params: Token) -> object:
        return {"thread_id": await self._links.join(identity, params.token)}

    async def _search(self, identity: Identity, params: Search) -> object:
        return {"hits": await self._chat.search(identity, params.text, params.limit)}
