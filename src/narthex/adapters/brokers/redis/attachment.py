"""Attaches a node to the current server: compares the node's state with the server's after each change of server.

Not here: the comparison itself (`scripts.ATTACH`), appending, listening. Rules: after every change of server (a
restart, a fail-over, a restored file) no node appends or reads in the old epoch before every node has compared; a
node that does not compare within `PATIENCE_S` costs the epoch, so that no publication is lost without a sign. One beat
a second detects a new server without traffic, shows the other nodes that this one is alive, and returns the number of
publications.
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
    """Other nodes have not compared yet; a retry may succeed."""


RunScript = Callable[[str, list[str], list[Any]], Awaitable[Any]]
"""Runs one of the scripts, by name, with its keys and arguments."""


class Attachment:
    """See the module.

    Args:
        names: the names of keys.
        run: runs a script on the current server.
        synced: returns whether that server syncs every commit; called at each change.
        unsure: called while it is unknown whether the old epoch continues: known positions must not be used.
        changed: called for a new server or epoch: this node must subscribe again to the channels that it follows.
        away: called when no server answered a beat.

    Attributes:
        fault: the error of the last beat; None after an answer.
        reign: the replication id of the server that this node has compared with.
        highest_seq: the highest number of a publication that this node has seen or got acknowledged: a server with a
            lower one has lost some.
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
        """The channel of this node's own beats."""
        return self._names.beat_prefix + self.instance

    def seen(self, seq: int, epoch: str) -> None:
        """This node got a publication with this number, or its acknowledgement, in a channel's epoch."""
        if seq > self.highest_seq and epoch.partition(".")[0] == self._epoch:
            self.highest_seq = seq

    async def attach(self) -> None:
        """Compare; changes the epoch when publications are missing.

        Raises:
            NotYet: call again.
            RedisError, OSError: no server answers, or a replica does (`connection.Replica`).
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
            # Acknowledgements during the comparison count too, unless the epoch is a new one.
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
        """Beat until cancelled; a failed beat is only skipped."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_S):
                    try:
                        await self.beat()
                    except NewRun:
                        await self.attach()
                self.fault = None
            except (NotYet, Replica) as fault:  # `_script` has left a replica already
                self.fault = fault
            except FAULTS as fault:
                self.fault = fault
                await self._away()
            except Exception as fault:  # a bug, or an error of the library's transport: keep beating
                self.fault = fault
                _log.exception("broker_beat_raised")
            await asyncio.sleep(BEAT_S if self._waiting_since is None else BEAT_S / 10)

    async def detach(self) -> None:
        """Deregister this node, which appends no more; ignores a server that does not answer."""
        names = self._names
        try:
            async with asyncio.timeout(BEAT_S):
                await self._run(
                    "DETACH", [names.epoch, names.reign, names.nodes], [self.reign, self.instance]
                )
        except (NewRun, RedisError, OSError, TimeoutError):
            pass
