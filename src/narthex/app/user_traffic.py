"""Decides whether this node serves users: some have been connected without a break for a while, once.

A deploy's candidate has sockets of gates and suites before it has users; those are test identities, or gone within
seconds. A node that has served users goes on to count as one that does: the runs of users who left must not wait.
Not here: what depends on it (`runs.agent_coverage`). Rule: it is asked every second or so, by the loop that claims
runs, and only sees what is there at that time.
"""

from __future__ import annotations

from collections.abc import Callable


class UserTraffic:
    """See the module.

    Args:
        has_users: whether a user is connected now.
        now: monotonic seconds.
        settled_s: how long users must have been connected.
    """

    def __init__(self, has_users: Callable[[], bool], now: Callable[[], float], settled_s: float) -> None:
        self._has_users = has_users
        self._now = now
        self._settled_s = settled_s
        self._since: float | None = None
        self._settled = False

    def serves_users(self) -> bool:
        """Whether users have ever been connected for so long."""
        if self._settled or not self._has_users():
            self._since = None
            return self._settled
        now = self._now()
        if self._since is None:
            self._since = now
        self._settled = now - self._since >= self._settled_s
        return self._settled
