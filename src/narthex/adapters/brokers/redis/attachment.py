"""A node's attachment to the server that answers: it compares what the node knows with what is there.

Not here: the comparison itself (`scripts.ATTACH`), appending, listening. Rules: after every change of who answers (a
restart, a fail-over, a restored file) nothing is appended or read in the old epoch before each node has compared; a
node that does not answer in `PATIENCE_S` costs the epoch, never a publication in silence. A beat a second finds out
who answers without traffic, tells the other nodes that this one lives, and teaches it how many publications there are.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from narthex.adapters.brokers.redis.connection import FAULTS, NewRun, Replica
from narthex.adapters.brokers.redis.scripts import KeyNames

BEAT_S: Final = 1.0
ANSWER_S: Final = 3.0
PATIENCE_S: Final = (
    4.0  # for other nodes to compare: they notice within a beat, and reconnect within a second or two
)

_log = structlog.get_logger("narthex.broker", log_name="narthex.broker")


class NotYet(ConnectionError):
    """Other nodes have not compared yet; the next try may find that they have."""


RunScript = Callable[[str, list[str], list[Any]], Awaitable[Any]]
"""Runs one of the scripts, by name, with its keys and arguments."""


class Attachment:
    """See the module.

    Args:
        names: of the keys.
        run: runs a script on the server that answers now.
        synced: whether that server syncs every commit; asked at each change.
        unsure: it is not known yet whether the old epoch goes on: what the node was told is not said to anyone.
        changed: another server answers, or the epoch is another: what this node follows has to be followed anew.
        away: no server answered a beat.

    Attributes:
        fault: why the last beat was not answered; None while they are.
        reign: the replication id of the server that this node has compared with.
        highest_seq: of all publications, as this node was shown or acknowledged: a server that counts fewer lost some.
    """

    def __init__(
        self,
        names: KeyNames,
        run: RunScript,
        *,
        synced: Callable[[], Awaitable[bool]],
        unsure: Callable[[], None],
        changed: Callable[[], None],
        away: Callable[[], Awaitable[None]],
    ) -> None:
        self._names = names
        self._run = run
        self._synced = synced
        self._unsure = unsure
        self._changed = changed
        self._away = away
        self._lock = asyncio.Lock()
        self._epoch = ""
        self._waiting_since: float | None = None
        self.instance = secrets.token_urlsafe(9)
        self.fault: Exception | None = None
        self.reign = ""
        self.highest_seq = 0

    @property
    def beats(self) -> str:
        """Where this node listens for its own beats."""
        return self._names.beat_prefix + self.instance

    def seen(self, seq: int, epoch: str) -> None:
        """A publication with this number was acknowledged, told or read here, in a channel's epoch."""
        if seq > self.highest_seq and epoch.partition(".")[0] == self._epoch:
            self.highest_seq = seq

    async def attach(self) -> None:
        """Compare; change the epoch when something is missing.

        Raises:
            NotYet: call again.
            RedisError, OSError: no server answers, or one that follows another (`connection.Replica`).
        """
        async with self._lock:
            synced = await self._synced()
            loop = asyncio.get_running_loop()
            names = self._names
            late = self._waiting_since is not None and loop.time() - self._waiting_since >= PATIENCE_S
            found = await self._run(
                "ATTACH",
                [names.epoch, names.reign, names.nodes, names.seq, names.answers],
                [
                    self.instance,
                    self._epoch,
                    self.highest_seq,
                    secrets.token_urlsafe(6),
                    int(synced),
                    int(late),
                ],
            )
            reign, epoch, seq = found[0].decode(), found[1].decode(), int(found[2])
            if not found[3]:
                if self._waiting_since is None:
                    self._waiting_since = loop.time()
                self._unsure()
                raise NotYet("other nodes have not compared yet")
            if found[4]:
                _log.error("broker_lost_publications", kept=seq, known=self.highest_seq, waited=late)
            before, now = (self.reign, self._epoch), (reign, epoch)
            # What was acknowledged while this was asked counts too, unless the epoch began anew.
            self.highest_seq = max(seq, self.highest_seq) if epoch == self._epoch else seq
            self.reign, self._epoch, self._waiting_since = reign, epoch, None
            if before not in (("", ""), now):
                self._changed()

    async def beat(self) -> None:
        """One beat. Raises NewRun, RedisError or OSError."""
        names = self._names
        keys = [names.epoch, names.reign, names.nodes, names.seq]
        seq, epoch = await self._run("BEAT", keys, [self.reign, self.instance, self.beats])
        self.seen(int(seq), epoch.decode())

    async def run(self) -> None:
        """Beat until cancelled; an engine that is away costs a turn."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_S):
                    try:
                        await self.beat()
                    except NewRun:
                        await self.attach()
                self.fault = None
            except (NotYet, Replica) as fault:  # a replica was left already
                self.fault = fault
            except FAULTS as fault:
                self.fault = fault
                await self._away()
            except Exception as fault:  # a bug, or an error of the library's transport: the beats must go on
                self.fault = fault
                _log.exception("broker_beat_raised")
            await asyncio.sleep(BEAT_S if self._waiting_since is None else BEAT_S / 10)

    async def detach(self) -> None:
        """This node appends nothing more; nothing is said where no server answers."""
        names = self._names
        try:
            async with asyncio.timeout(BEAT_S):
                await self._run(
                    "DETACH", [names.epoch, names.reign, names.nodes], [self.reign, self.instance]
                )
        except (NewRun, RedisError, OSError, TimeoutError):
            pass
