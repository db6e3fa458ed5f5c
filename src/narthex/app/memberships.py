"""Manages the members of a thread: additions with the added user's consent, departures, blocked users.

Not here: members' rights (`app/chat.py`), links (`app/thread_links.py`). Rules: a user becomes a member of
another's thread only by accepting an invitation or by following a link, except where the tenant's setting adds
members at once; every addition counts against the adder's plan, whatever its outcome; a user who has
blocked the inviter is not asked, and the inviter cannot see that: the answer is the same as for an open invitation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from narthex.app.chat import Chat
from narthex.app.notices import Notices
from narthex.app.thread_links import ThreadLinks
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.identity import E2E_TENANT, Identity
from narthex.domain.ids import user_key
from narthex.domain.plans import DAY_S, INVITATION_DAYS, Plan
from narthex.domain.threads import thread_not_found
from narthex.errors import ClientError
from narthex.ports.broker import Control, ControlBus
from narthex.ports.memberships import MAX_BLOCKED, MAX_PENDING, Invitation, ShownInvitation
from narthex.ports.store import Store
from narthex.ports.threads import KEEPS_ALL, Kept

EVERY_TENANT: Final = "*"


class MembershipService:
    """See the module.

    Args:
        store: threads and memberships.
        broker: subscriptions of users who are removed end there.
        notices: to users' devices.
        chat: rights in threads.
        plans: gives the plan of a user.
        now: seconds since the epoch.
        direct: tenants whose members are added without being asked; `*`: all. The e2e tenant always is one.
        kept: as `Chat`'s.

    Attributes:
        links: users join a thread by them.
    """

    def __init__(
        self,
        store: Store,
        broker: ControlBus,
        notices: Notices,
        chat: Chat,
        plans: Callable[[Identity], Plan],
        now: Callable[[], float],
        *,
        direct: Sequence[str] = (),
        kept: Callable[[], Kept] | None = None,
    ) -> None:
        self._threads = store.threads
        self._memberships = store.memberships
        self._broker = broker
        self._notices = notices
        self._chat = chat
        self._plans = plans
        self._now = now
        self._direct = frozenset(direct) | {E2E_TENANT}
        self._kept = kept or (lambda: KEEPS_ALL)
        self.links = ThreadLinks(store.memberships, notices, chat, plans, now, self._kept)

    def direct(self, tenant: str) -> bool:
        """Whether members are added without being asked in this tenant."""
        return tenant in self._direct or EVERY_TENANT in self._direct

    async def add(self, identity: Identity, thread_id: str, user_id: str) -> str:
        """Any member may add a user of the same tenant, up to the thread size of the adder's plan.

        Returns:
            `member` (the user is one now, or was already), or `invited`.

        Raises:
            ClientError: `thread_not_found` (404), `blocked` (403, only where members are added at once),
                `members_limit`, `additions_limit`, `invitations_limit` (429).
        """
        await self._chat.require(identity, thread_id)
        plan, now, direct = self._plans(identity), self._now(), self.direct(identity.tenant)
        invitation = Invitation(
            thread_id=thread_id,
            tenant=identity.tenant,
            user_id=user_id,
            invited_by=identity.subject,
            created_at=now,
            member_limit=plan.thread_members,
            inviter_name=identity.name,
        )
        outcome = await self._memberships.add(
            invitation, direct=direct, additions=plan.additions_per_day, since=self._since()
        )
        match outcome:
            case "added":
                await self._chat.notify_members(
                    identity.tenant,
                    thread_id,
                    "narthex.thread_added",
                    {"threadId": thread_id, "userId": user_id, "by": identity.subject},
                )
            case "invited":
                await self._notify_invited(identity, invitation)
            case "absent":
                raise thread_not_found()
            case "full":
                raise ClientError(
                    "members_limit",
                    f"The plan allows {plan.thread_members} members per thread, including invited users.",
                    "Remove a member, or upgrade the plan.",
                    number=429,
                )
            case "spent":
                raise ClientError(
                    "additions_limit",
                    f"The plan allows {plan.additions_per_day} additions and invitations per day.",
                    "Try again tomorrow (UTC), or upgrade the plan.",
                    number=429,
                )
            case "crowded":
                raise ClientError(
                    "invitations_limit",
                    f"The user already has {MAX_PENDING} open invitations.",
                    "Ask the user to answer some of them.",
                    number=429,
                )
            case "blocked" if direct:
                raise ClientError("blocked", "The user cannot be added.", "Send them a link.", number=403)
        return "member" if outcome in ("added", "present") else "invited"

    async def _notify_invited(self, identity: Identity, invitation: Invitation) -> None:
        thread = await self._threads.get(identity.tenant, invitation.thread_id)
        value = {
            "threadId": invitation.thread_id,
            "title": thread.title if thread is not None else "",
            "by": identity.subject,
            "name": identity.name,
        }
        await self._notices.send(identity.tenant, [invitation.user_id], "narthex.thread_invited", value)

    # -- invitations ---------------------------------------------------------------------------------------

    async def invitations(
        self, identity: Identity, before: float | None, limit: int, before_id: str = ""
    ) -> list[ShownInvitation]:
        """The user's open invitations, newest first."""
        return await self._memberships.invitations(
            identity.tenant,
            identity.subject,
            since=self._since(),
            before=before,
            before_id=before_id,
            limit=limit,
            kept=self._kept(),
        )

    async def accept(self, identity: Identity, thread_id: str) -> None:
        """Become a member. Idempotent.

        Raises:
            ClientError: `invitation_not_found` (404), `members_limit` (429).
        """
        outcome = await self._memberships.accept(
            identity.tenant,
            thread_id,
            identity.subject,
            now=self._now(),
            since=self._since(),
            kept=self._kept(),
        )
        if outcome == "absent":
            raise _no_invitation()
        if outcome == "full":
            raise ClientError(
                "members_limit", "The thread is full.", "Ask an owner to remove a member.", number=429
            )
        if outcome == "joined":
            value = {"threadId": thread_id, "userId": identity.subject, "by": identity.subject}
            await self._chat.notify_members(identity.tenant, thread_id, "narthex.thread_added", value)
            await self._closed(identity.tenant, identity.subject, thread_id, "accepted")

    async def decline(self, identity: Identity, thread_id: str) -> None:
        """Delete an invitation; the inviter gets no notice.

        Raises:
            ClientError: `invitation_not_found` (404).
        """
        if (
            await self._memberships.withdraw(identity.tenant, thread_id, identity.subject, hidden=False)
            is None
        ):
            raise _no_invitation()
        await self._closed(identity.tenant, identity.subject, thread_id, "declined")

    async def _closed(self, tenant: str, user_id: str, thread_id: str, state: str) -> None:
        """Make the user's other devices hide the invitation."""
        value = {"threadId": thread_id, "state": state}
        await self._notices.send(tenant, [user_id], "narthex.invitation_closed", value)

    def _since(self) -> float:
        return self._now() - INVITATION_DAYS * DAY_S

    # -- leaving -------------------------------------------------------------------------------------------

    async def remove(self, identity: Identity, thread_id: str, user_id: str) -> None:
        """An owner removes any member and withdraws invitations, an inviter their own; every member may leave. The
        removed user's connections lose the channel at once, and their open invitations end: else an invited user
        could still join. When an owner removes a member, the thread's link is revoked.

        When the last owner leaves, the member of longest standing becomes the owner; the last member cannot leave.

        Raises:
            ClientError: `thread_not_found`, `member_not_found` (404), `not_owner` (403), `last_member` (409).
        """
        await self._chat.require(identity, thread_id)
        tenant = identity.tenant
        by = identity.subject if user_id != identity.subject else ""
        invitation = await self._memberships.withdraw(tenant, thread_id, user_id, by=by)
        if invitation is not None:
            if not invitation.hidden:
                await self._closed(tenant, user_id, thread_id, "withdrawn")
            return
        while (
            departure := await self._threads.remove_member(tenant, thread_id, user_id, by=by)
        ).outcome == "forbidden":
            await self._chat.require(identity, thread_id, owner=True)  # raises, unless they own it since then
        if departure.outcome == "absent":  # or an earlier removal stopped after the store
            await self._end_subscriptions(tenant, thread_id, user_id)
            raise ClientError("member_not_found", "The user is not a member.", "See thread.get.", number=404)
        if departure.outcome == "last":
            raise ClientError(
                "last_member",
                "The last member cannot leave the thread.",
                "Delete the thread with thread.delete, or add another member first.",
                number=409,
            )
        await self._end_subscriptions(tenant, thread_id, user_id)
        value = {"threadId": thread_id, "userId": user_id, "by": identity.subject}
        await self._notices.send(tenant, [user_id], "narthex.thread_removed", value)
        await self._chat.notify_members(tenant, thread_id, "narthex.thread_removed", value)
        for invited in departure.withdrawn:
            await self._closed(tenant, invited, thread_id, "withdrawn")
        if departure.heir:
            value = {"threadId": thread_id, "userId": departure.heir, "by": identity.subject}
            await self._chat.notify_members(tenant, thread_id, "narthex.thread_owner", value)

    async def _end_subscriptions(self, tenant: str, thread_id: str, user_id: str) -> None:
        key = channel_key(tenant, thread_channel(thread_id))
        data: dict[str, object] = {"channel": key, "user": user_key(tenant, user_id), "stored": True}
        await self._broker.control(Control("unsubscribe", data))

    async def leave(self, identity: Identity, thread_ids: Sequence[str]) -> dict[str, object]:
        """Leave many threads: `left`, and for each of the others the name of the error."""

        def leave(thread_id: str) -> Awaitable[None]:
            return self.remove(identity, thread_id, identity.subject)

        return await _of_each(thread_ids, leave, "left")

    async def decline_all(self, identity: Identity, thread_ids: Sequence[str]) -> dict[str, object]:
        """Decline many invitations: `declined`, and for each of the others the name of the error."""
        return await _of_each(thread_ids, partial(self.decline, identity), "declined")

    # -- blocking ------------------------------------------------------------------------------------------

    async def block(self, identity: Identity, user_id: str) -> None:
        """Take no invitations and additions by `user_id` any more; the open ones are not shown any longer.

        Threads that both are in stay as they are.

        Raises:
            ClientError: `bad_params` (400: oneself), `blocks_limit` (429).
        """
        if user_id == identity.subject:
            raise ClientError("bad_params", "You cannot block yourself.", "Name another user.", number=400)
        if not await self._memberships.block(identity.tenant, identity.subject, user_id, self._now()):
            raise ClientError(
                "blocks_limit", f"You already block {MAX_BLOCKED} users.", "Unblock a user first.", number=429
            )

    async def unblock(self, identity: Identity, user_id: str) -> None:
        """Take invitations by `user_id` again."""
        await self._memberships.unblock(identity.tenant, identity.subject, user_id)

    async def blocked(self, identity: Identity) -> list[str]:
        """The users that this user has blocked."""
        return await self._memberships.blocked(identity.tenant, identity.subject)


async def _of_each(
    thread_ids: Sequence[str], operation: Callable[[str], Awaitable[None]], name: str
) -> dict[str, object]:
    """Threads for which `operation` succeeded, under `name`; of the others the errors' names, under `failed`."""
    done: list[str] = []
    failed: dict[str, str] = {}
    for thread_id in dict.fromkeys(thread_ids):
        try:
            await operation(thread_id)
        except ClientError as fault:
            failed[thread_id] = fault.code
        else:
            done.append(thread_id)
    return {name: done, "failed": failed}


def _no_invitation() -> ClientError:
    return ClientError(
        "invitation_not_found",
        "You have no open invitation to this thread.",
        "thread.invitations lists your open invitations; if it is missing, ask to be invited again.",
        number=404,
    )
