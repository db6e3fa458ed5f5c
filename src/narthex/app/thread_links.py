"""Links by which users of a tenant join a thread: made and revoked by an owner, opened and followed by others.

Not here: invitations (`app/memberships.py`). Rules: the store has only the token's digest, so that the token is shown
once; an unknown, expired or revoked token, one of another tenant, and one whose maker has blocked the
caller, all give the same answer; opening a link makes no member, `join` does.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from narthex.app.chat import Chat
from narthex.app.notices import Notices
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.plans import DAY_S, INVITATION_DAYS, Plan
from narthex.errors import ClientError
from narthex.ports.memberships import LinkedThread, Memberships, ThreadLink
from narthex.ports.threads import Kept

TOKEN_BYTES: Final = 32


@dataclass(eq=False)
class ThreadLinks:
    """See the module. Arguments as `app.memberships.MembershipService` has them."""

    memberships: Memberships
    notices: Notices
    chat: Chat
    plans: Callable[[Identity], Plan]
    now: Callable[[], float]
    kept: Callable[[], Kept]

    async def make(self, identity: Identity, thread_id: str, days: int) -> tuple[str, float]:
        """Open a link for `days`; an earlier one of the thread ends.

        Returns:
            Its token, which cannot be read again, and the moment of its end.

        Raises:
            ClientError: `thread_not_found` (404), `not_owner` (403).
        """
        await self.chat.require(identity, thread_id)
        plan, now, token = self.plans(identity), self.now(), secrets.token_urlsafe(TOKEN_BYTES)
        link = ThreadLink(
            thread_id=thread_id,
            tenant=identity.tenant,
            digest=_digest(token),
            created_by=identity.subject,
            creator_name=identity.name,
            created_at=now,
            expires_at=now + days * DAY_S,
            member_limit=plan.thread_members,
            additions=plan.additions_per_day,
        )
        if not await self.memberships.make_link(link):
            await self.chat.require(identity, thread_id, owner=True)  # raises the reason
        return token, link.expires_at

    async def of_thread(self, identity: Identity, thread_id: str) -> ThreadLink | None:
        """The open link of one of the caller's threads.

        Raises:
            ClientError: `thread_not_found` (404), `not_owner` (403).
        """
        await self.chat.require(identity, thread_id, owner=True)
        return await self.memberships.link(identity.tenant, thread_id, now=self.now())

    async def revoke(self, identity: Identity, thread_id: str) -> None:
        """Close the link; its members stay. Idempotent.

        Raises:
            ClientError: `thread_not_found` (404), `not_owner` (403).
        """
        await self.chat.require(identity, thread_id)
        if not await self.memberships.revoke_link(identity.tenant, thread_id, by=identity.subject):
            await self.chat.require(
                identity, thread_id, owner=True
            )  # raises the reason, unless there was no link

    async def preview(self, identity: Identity, token: str) -> LinkedThread:
        """The thread that the caller would join. Changes nothing.

        Raises:
            ClientError: `link_not_found` (404), `sign_in_required` (403: a guest).
        """
        _require_user(identity)
        found = await self.memberships.linked(
            identity.tenant, _digest(token), identity.subject, now=self.now(), kept=self.kept()
        )
        if found is None:
            raise _no_link()
        return found

    async def join(self, identity: Identity, token: str) -> str:
        """Become a member; returns the thread's id. Idempotent.

        Raises:
            ClientError: `link_not_found` (404), `sign_in_required` (403: a guest), `blocked` (403: the caller has
                blocked the owner), `members_limit`, `additions_limit` (429: the owner's plan).
        """
        _require_user(identity)
        tenant, user_id, now = identity.tenant, identity.subject, self.now()
        joined = await self.memberships.join_by_link(
            tenant,
            _digest(token),
            user_id,
            since=now - INVITATION_DAYS * DAY_S,
            now=now,
            kept=self.kept(),
        )
        match joined.outcome:
            case "absent":
                raise _no_link()
            case "blocking":
                raise ClientError(
                    "blocked", "You have blocked the thread's owner.", "Unblock the owner first.", number=403
                )
            case "full":
                raise ClientError(
                    "members_limit", "The thread is full.", "Ask its owner to remove a member.", number=429
                )
            case "spent":
                raise ClientError(
                    "additions_limit",
                    "The plan of the thread's owner allows no further additions today.",
                    "Try again tomorrow (UTC).",
                    number=429,
                )
            case "joined":
                value = {"threadId": joined.thread_id, "userId": user_id, "by": user_id}
                await self.chat.notify_members(tenant, joined.thread_id, "narthex.thread_added", value)
                if joined.invited:
                    value = {"threadId": joined.thread_id, "state": "accepted"}
                    await self.notices.send(tenant, [user_id], "narthex.invitation_closed", value)
        return joined.thread_id


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _require_user(identity: Identity) -> None:
    if identity.identity_class is IdentityClass.GUEST:
        raise ClientError(
            "sign_in_required",
            "Guests cannot join threads by a link.",
            "Sign in, then open it again.",
            number=403,
        )


def _no_link() -> ClientError:
    return ClientError(
        "link_not_found",
        "The link is not valid: it expired, was revoked, or never existed.",
        "Ask the thread's owner for a new one.",
        number=404,
    )
