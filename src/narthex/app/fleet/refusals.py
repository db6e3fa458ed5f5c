"""The newest refusals of this process, for the operators' live list.

Not here: counting and logging them (`app/handshake_record`). Rules: an entry has no address (only its class) and no
header value; it names a user only where the credential's signature was verified; entries between two snapshots are
bounded, and those left out are counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from narthex.domain.addresses import address_class
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal

PER_SNAPSHOT: Final = 20  # more in a second cannot be read; `omitted` counts them


class RecentRefusal(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One refused handshake, or one refused credential on an open connection.

    Attributes:
        at: seconds since the epoch.
        code: of the refusal table.
        detail: the sentence that the client was given.
        remedy: of the table.
        carriers: names of the carriers in the request.
        user: the subject of a credential whose signature was verified; empty: of none.
        tenant: the user's.
        address: the class of the client's address: loopback, private, public-ipv4, public-ipv6 or unknown.
        traffic: class of the traffic, where it is known.
        trace_id: finds the record in the log.
        node: the refusing node.
    """

    at: float
    code: str
    detail: str
    remedy: str = ""
    carriers: list[str] = []
    user: str = ""
    tenant: str = ""
    address: str = "unknown"
    traffic: str = ""
    trace_id: str = ""
    node: str = ""


class RecentRefusals:
    """See the module.

    Args:
        node: this node's id.
        clock: seconds since the epoch.
    """

    def __init__(self, node: str, clock: Callable[[], float] = time.time) -> None:
        self._node = node
        self._clock = clock
        self._newest: deque[RecentRefusal] = deque(maxlen=PER_SNAPSHOT)
        self._omitted = 0

    def add(
        self,
        refusal: Refusal,
        carriers: tuple[str, ...],
        *,
        user: Identity | None,
        client: str,
        traffic: str,
        trace_id: str,
    ) -> None:
        """Record one; the oldest gives way. Health's own attempts do not count."""
        if traffic == "probe":
            return
        if len(self._newest) == PER_SNAPSHOT:
            self._omitted += 1
        self._newest.append(
            RecentRefusal(
                at=round(self._clock(), 3),
                code=refusal.code,
                detail=refusal.detail or f"{refusal.row.title}.",
                remedy=refusal.row.remedy,
                carriers=list(carriers),
                user=user.subject if user is not None else "",
                tenant=user.tenant if user is not None else "",
                address=address_class(client),
                traffic=traffic,
                trace_id=trace_id,
                node=self._node,
            )
        )

    def take(self) -> tuple[list[RecentRefusal], int]:
        """The refusals since the last call, oldest first, and the number of those that were left out."""
        found, omitted = list(self._newest), self._omitted
        self._newest.clear()
        self._omitted = 0
        return found, omitted
