"""Detects dead owners by watching the leases of other nodes: one that did not change for long enough has lapsed.

Not here: renewing (`loops`), an owner's own lease (`lease`). Rules: only this node's own elapsed
time counts, and of that only time in which it looked: a node that was suspended, or could not read the store, has seen
nothing and concludes nothing. So no machine's wall clock decides, and an owner that paused together
with all others has its whole lease to renew in.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from narthex.ports.runs import LeaseSeen


class ObservedLeases:
    """See the module.

    Args:
        lease_s: a lease has lapsed after this time without a change.
        most_gap_s: at most so much of the time between two looks counts.
    """

    def __init__(self, lease_s: float, most_gap_s: float) -> None:
        self._lease_s = lease_s
        self._most_gap_s = most_gap_s
        self._looked_at: float | None = None
        self._unchanged: dict[str, tuple[LeaseSeen, float]] = {}

    def lapsed(
        self,
        leases: Iterable[LeaseSeen],
        asked_at: float,
        read_at: float,
        ours: Container[str],
        courtesy_s: float = 0.0,
    ) -> list[LeaseSeen]:
        """Compare the leases with those of earlier looks.

        Args:
            leases: all there are.
            asked_at: monotonic seconds, from before they were read.
            read_at: the same, from after. A lease may have changed in between, so that time never counts.
            ours: run ids that this node holds itself: it renews them, and never takes them over here.
            courtesy_s: how much longer those of restartable runs must be unchanged, so that other nodes take them.

        Returns:
            Those that may be taken over: unchanged for `lease_s`, and those that have no owner.
        """
        gap_s = 0.0
        if self._looked_at is not None:
            gap_s = min(max(0.0, asked_at - self._looked_at), self._most_gap_s)
        self._looked_at = read_at
        known, self._unchanged = self._unchanged, {}
        found: list[LeaseSeen] = []
        for lease in leases:
            if lease.run_id in ours:
                continue
            before, unchanged_s = known.get(lease.run_id, (None, 0.0))
            unchanged_s = unchanged_s + gap_s if before == lease else 0.0
            self._unchanged[lease.run_id] = (lease, unchanged_s)
            needed_s = (self._lease_s if lease.owner else 0.0) + (courtesy_s if lease.restartable else 0.0)
            if unchanged_s >= needed_s:
                found.append(lease)
        return found
