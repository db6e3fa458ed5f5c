"""Finds the connections that follow an active run: a rotation and a drain let those wait a moment.

Not here: closing them (`app/connection`, `app/drain`). Rules: runs of this node are known exactly; for a run of another
node the channel's activity gives a guess (`channel_activity`).
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.app.channel_activity import ChannelActivity
from narthex.app.presence import Peer


class RunFollowers:
    """See the module.

    Args:
        running: channel keys of this node's runs, as they are now.
        activity: guesses whether another node's run is active.
        now: the loop's clock.
    """

    def __init__(
        self, running: Callable[[], set[str]], activity: ChannelActivity, now: Callable[[], float]
    ) -> None:
        self._running = running
        self._activity = activity
        self._now = now

    def of_this_node(self) -> Callable[[Peer], bool]:
        """A test whether a connection follows a run of this node, as of now, for any number of connections."""
        running = self._running()
        return lambda connection: any(
            item.channel.key in running for item in connection.subscriptions.values()
        )

    def follows(self, connection: Peer) -> bool:
        """Whether a connection follows a run of this node, or perhaps one of another node."""
        now = self._now()
        channels = [one.channel for one in connection.subscriptions.values() if not one.server_side]
        # Each channel is looked at: the next look compares with this one.
        active = [self._activity.may_be_active(channel.key, channel.last, now) for channel in channels]
        return any(active) or self.of_this_node()(connection)
