"""Holds revocations in memory on every instance, so that a look-up costs no I/O; the store is the truth.

Not here: closing connections (listeners do that), users' blocks beyond their tokens (`app/provider.py`).
Rules: a revocation is stored before it is broadcast; the broadcast only speeds up what the poll finds within
`POLL_EVERY_S`; the poll reads the changes since the last one, and everything now and then; a token without `iat`
counts as issued before any cut (docs/design.md#admission).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from narthex.app.periodic import BackgroundTask
from narthex.domain.identity import Identity
from narthex.domain.ids import EVERYBODY
from narthex.errors import DependencyError
from narthex.ports.broker import Control, ControlBus
from narthex.ports.credentials import Credentials, Revocation
from narthex.ports.store import AuditRecord, Records

POLL_EVERY_S: Final = (
    0.7  # docs/design.md#admission: on every instance within 1 s, even when a broadcast is lost
)
RELOAD_EVERY_S: Final = 300.0  # everything: drops ended ones, and repairs misses that a position cannot show
PAGE: Final = 5_000  # of one read: about 20 ms, and 5 ms of the loop
AUDIT_KIND: Final = "revocation"
AUDIT_KIND_ENDED: Final = "revocation_ended"
AFTER_EXP_S: Final = 30.0 + 25.0  # leeway and grace, where settings do not say otherwise
CONTROL_KIND: Final = "revoke"

Key = tuple[str, str, str]
Listener = Callable[[Sequence[Revocation]], None]


class Revocations:
    """The revocations of all tenants.

    Args:
        credentials: stores them.
        broker: notifies the other instances; None where there is none (`narthex auth serve`).
        records: the audit store of operators' revocations; None: nowhere.
        clock: seconds since the epoch.
        after_exp_s: how long after its `exp` a token may still count somewhere: leeway and grace.
        on_error: called when the store cannot be read (held revocations go on counting); None: not reported.
        poll_every_s: seconds between two reads of the store's changes.
    """

    def __init__(
        self,
        credentials: Credentials,
        broker: ControlBus | None,
        *,
        records: Records | None = None,
        clock: Callable[[], float] = time.time,
        after_exp_s: float = AFTER_EXP_S,
        on_error: Callable[[DependencyError], None] | None = None,
        poll_every_s: float = POLL_EVERY_S,
    ) -> None:
        self._poll_every_s = poll_every_s
        self.after_exp_s = after_exp_s
        self.made: Counter[str] = Counter()  # by kind, those that this instance stored
        self._credentials = credentials
        self._broker = broker
        self._records = records
        self._clock = clock
        self._on_error = on_error
        self._by_jti: dict[tuple[str, str], Revocation] = {}
        self._by_session: dict[tuple[str, str], Revocation] = {}
        self._by_subject: dict[tuple[str, str], Revocation] = {}
        self._cuts: dict[tuple[str, str], Revocation] = {}
        self._tables = {
            "jti": self._by_jti,
            "session": self._by_session,
            "subject": self._by_subject,
            "issued_before": self._cuts,
        }
        self._listeners: list[Listener] = []
        self._fresh: set[Key] = set()  # broadcast since the last whole read of the store began
        self._ended: dict[Key, float] = {}  # by time of removal: a broadcast from before then is late
        self._position = 0
        self._poll = BackgroundTask(self._keep_reading, "revocations")

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    # -- asking --------------------------------------------------------------------------------------------

    def covers(self, identity: Identity) -> bool:
        """Whether the identity's credential has been revoked. No I/O; at most six look-ups."""
        if self._by_jti and (token_id := identity.token_id):
            found = self._by_jti.get((identity.tenant, token_id)) or self._by_jti.get(("", token_id))
            if found is not None and self._holds(found):
                return True
        if self._by_session and identity.session:
            found = self._by_session.get((identity.tenant, identity.session))
            if found is not None and self._holds(found):
                return True
        if self._by_subject:
            found = self._by_subject.get((identity.tenant, identity.subject))
            if found is not None and self._holds(found):
                return True
        return bool(self._cuts) and (
            self._before(identity, identity.subject) or self._before(identity, EVERYBODY)
        )

    def _before(self, identity: Identity, value: str) -> bool:
        found = self._cuts.get((identity.tenant, value))
        if found is None or not (identity.issued_at is None or identity.issued_at < found.cut):
            return False
        return self._holds(found)

    def _holds(self, found: Revocation) -> bool:
        """Whether the revocation has not ended; the next whole read drops ended ones."""
        return found.until > self._clock()

    def listen(self, listener: Listener) -> None:
        """Call `listener` on the event loop with the revocations that are new to this instance, all that one read
        found at once. It must not block or raise; it closes the connections for whose identity `covers` is now true.
        """
        self._listeners.append(listener)

    # -- revoking ------------------------------------------------------------------------------------------

    async def revoke(self, revocation: Revocation, *, audit: bool = True) -> None:
        """Store it, apply it here, broadcast it, record it.

        Args:
            revocation: to store.
            audit: False for users who end their own session, which happens all day and proves nothing.

        Raises:
            DependencyError: not stored: nothing is revoked for certain; try again.
        """
        await self._credentials.add_revocation(revocation)
        self.made[revocation.kind] += 1
        self._apply([revocation], told=True)
        if self._broker is not None:
            data: dict[str, Any] = msgspec.to_builtins(revocation)
            # the poll of every instance finds within a second what a lost broadcast missed
            with contextlib.suppress(DependencyError):
                await self._broker.control(Control(CONTROL_KIND, data))
        if audit:
            await self._record(AUDIT_KIND, revocation)

    async def revoke_token(self, identity: Identity, *, reason: str) -> None:
        """Revoke the one token of an identity; without a `jti`, everything of its subject that was
        issued up to its own `iat`.
        """
        now = self._clock()
        until = (identity.expires_at or now + 86_400) + self.after_exp_s
        if identity.token_id:
            kind, value, cut = "jti", identity.token_id, 0.0
        else:
            kind, value, cut = "issued_before", identity.subject, (identity.issued_at or now) + 1
        await self.revoke(
            Revocation(
                kind=kind, tenant=identity.tenant, value=value, at=now, until=until, cut=cut, reason=reason
            ),
            audit=False,
        )

    async def revoke_session(self, tenant: str, session: str, *, max_ttl_s: float, reason: str) -> None:
        """Revoke every token of one sign-in, on every device of its user.

        Args:
            tenant: of the user.
            session: the sign-in's family.
            max_ttl_s: how long an access token of it can still live.
            reason: for an operator who asks why; never a secret.
        """
        now = self._clock()
        await self.revoke(
            Revocation(
                kind="session",
                tenant=tenant,
                value=session,
                at=now,
                until=now + max_ttl_s + self.after_exp_s,
                reason=reason,
            ),
            audit=False,
        )

    async def revoke_subject(self, tenant: str, subject: str, *, until: float, reason: str) -> None:
        """Revoke everything of a subject, also tokens issued until `until` (a block)."""
        await self.revoke(
            Revocation(
                kind="subject", tenant=tenant, value=subject, at=self._clock(), until=until, reason=reason
            )
        )

    async def allow_subject(self, tenant: str, subject: str, *, reason: str) -> bool:
        """End a `revoke_subject` (an unblock), everywhere within a second; False when there was none."""
        now = self._clock()
        removed = await self._credentials.remove_revocation("subject", tenant, subject, now)
        ended = Revocation(kind="subject", tenant=tenant, value=subject, at=now, until=now, reason=reason)
        self._end(ended)
        if removed:
            self._ended[_key(ended)] = now
            await self._record(AUDIT_KIND_ENDED, ended)
        return removed

    async def _record(self, kind: str, revocation: Revocation) -> None:
        """Record a revocation that holds already: a failed record must not look like a failed revocation."""
        if self._records is not None:
            with contextlib.suppress(DependencyError):
                await self._records.audit(_record(kind, revocation))

    # -- keeping up ----------------------------------------------------------------------------------------

    def control(self, message: Control) -> None:
        """Takes every broker `Control` of kind `revoke`. A malformed one is left to the poll."""
        with contextlib.suppress(msgspec.ValidationError):
            told = msgspec.convert(message.data, Revocation)
            if told.at >= self._ended.get(_key(told), told.at):
                self._apply([told], told=True)

    async def start(self) -> None:
        """Load, then poll. Raises DependencyError: admit no client before this has returned."""
        await self.reload()
        await self._poll.start()

    async def stop(self) -> None:
        """End the poll."""
        await self._poll.stop()

    async def reload(self) -> None:
        """Read all from the store and forget those that it no longer keeps. Raises DependencyError."""
        self._fresh = set()
        kept: set[Key] = set()
        now = self._clock()
        async for page in self._pages(0):
            kept.update(_key(revocation) for revocation in page if not _over(revocation, now))
        for kind, table in self._tables.items():
            for key in [key for key in table if (kind, *key) not in kept and (kind, *key) not in self._fresh]:
                del table[key]
        self._ended = {key: at for key, at in self._ended.items() if at > now - RELOAD_EVERY_S}

    async def refresh(self) -> None:
        """Read the changes since the last read; listeners get the new ones. Raises DependencyError."""
        async for _ in self._pages(self._position):
            pass

    async def _pages(self, position: int) -> AsyncIterator[list[Revocation]]:
        """The store's changes after a position, applied page by page."""
        more = True
        while more:
            found = await self._credentials.revocation_changes(position, PAGE)
            self._take(found.changed)
            position, more = found.position, found.more
            yield found.changed
        self._position = position

    async def _keep_reading(self) -> None:
        loop = asyncio.get_running_loop()
        reloaded_at = loop.time()
        while True:
            await asyncio.sleep(self._poll_every_s)
            try:
                if loop.time() - reloaded_at < RELOAD_EVERY_S:
                    await self.refresh()
                else:
                    await self.reload()
                    reloaded_at = loop.time()
            except DependencyError as error:
                if self._on_error is not None:
                    self._on_error(error)

    # -- the held state ------------------------------------------------------------------------------------

    def _take(self, changed: Sequence[Revocation]) -> None:
        """Apply the store's state: it overrides any broadcast."""
        now = self._clock()
        for revocation in changed:
            if _over(revocation, now):
                self._end(revocation)
        self._apply((revocation for revocation in changed if not _over(revocation, now)), told=False)

    def _end(self, revocation: Revocation) -> None:
        table = self._tables.get(revocation.kind)
        if table is not None and table.pop((revocation.tenant, revocation.value), None) is not None:
            self._ended[_key(revocation)] = revocation.at

    def _apply(self, revocations: Iterable[Revocation], *, told: bool) -> None:
        """Keep them; `told`: by a broadcast, which a store read under way may not contain yet."""
        if told:
            revocations = list(revocations)
            self._fresh.update(map(_key, revocations))
        new = [kept for revocation in revocations if (kept := self._put(revocation)) is not None]
        if new:
            for listener in self._listeners:
                listener(new)

    def _put(self, revocation: Revocation) -> Revocation | None:
        """Keep it if it reaches further than the held one; None when it does not."""
        table = self._tables.get(revocation.kind)
        key = (revocation.tenant, revocation.value)
        if table is None:
            return None
        kept = table.get(key)
        if kept is not None:
            if revocation.until <= kept.until and revocation.cut <= kept.cut:
                return None
            revocation = msgspec.structs.replace(
                revocation, until=max(revocation.until, kept.until), cut=max(revocation.cut, kept.cut)
            )
        table[key] = revocation
        return revocation


def _key(revocation: Revocation) -> Key:
    return revocation.kind, revocation.tenant, revocation.value


def _over(revocation: Revocation, now: float) -> bool:
    """Whether it has ended: by this clock, or already when written, by an instance whose clock may be ahead."""
    return revocation.until <= max(now, revocation.at)


def _record(kind: str, revocation: Revocation) -> AuditRecord:
    detail = {
        name: getattr(revocation, name)
        for name in ("kind", "value", "reason", "cut", "until")
        if getattr(revocation, name)
    }
    return AuditRecord(
        at=revocation.at,
        kind=kind,
        tenant=revocation.tenant,
        subject="" if revocation.kind in ("jti", "session") else revocation.value,
        detail=msgspec.json.encode(detail).decode(),
    )
