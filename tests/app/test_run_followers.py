"""Which connections follow an active run: exactly for this node's runs, by a guess for those of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from narthex.app.channel_activity import ChannelActivity
from narthex.app.run_followers import RunFollowers

STEP_S = 1.0


def peer(*channels: tuple[str, int | None, bool]) -> Any:
    """A connection with subscriptions: channel key, the channel's end, whether it is a server-side one."""
    return SimpleNamespace(
        subscriptions={
            key: SimpleNamespace(channel=SimpleNamespace(key=key, last=last), server_side=server_side)
            for key, last, server_side in channels
        }
    )


class Node:
    """A node with runs."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.now = 0.0
        self.followers = RunFollowers(lambda: self.running, ChannelActivity(STEP_S), lambda: self.now)

    def follows(self, one: object) -> bool:
        """Ask."""
        return self.followers.follows(cast("Any", one))


def test_a_connection_in_the_thread_of_a_run_of_this_node_follows_it() -> None:
    """As of the moment when the set is taken; also by a server-side subscription."""
    node = Node()
    node.running = {"a/t1"}
    test = node.followers.of_this_node()
    node.running = set()
    assert test(peer(("a/t2", 1, False), ("a/t1", 1, False)))
    assert test(peer(("a/t1", 1, True)))
    assert not test(peer(("a/t2", 1, False)))
    assert not test(peer())


def test_a_channel_that_moves_may_have_a_run_elsewhere() -> None:
    """The first look says maybe; a step later only what moved meanwhile counts."""
    node = Node()
    assert node.follows(peer(("a/t1", 1, False)))
    node.now += STEP_S
    assert not node.follows(peer(("a/t1", 1, False)))
    node.now += STEP_S
    assert node.follows(peer(("a/t1", 2, False)))


def test_every_channel_is_looked_at_each_time() -> None:
    """Also those behind one that moves: their next look compares with this one."""
    node = Node()
    one = peer(("a/t1", 1, False), ("a/t2", 1, False))
    assert node.follows(one)
    node.now += STEP_S
    assert not node.follows(one)


def test_a_server_side_subscription_is_no_sign_of_a_run() -> None:
    """Every connection has one to its user's notices."""
    node = Node()
    assert not node.follows(peer(("a/user", 1, True)))
    node.running = {"a/user"}
    assert node.follows(peer(("a/user", 1, True)))
