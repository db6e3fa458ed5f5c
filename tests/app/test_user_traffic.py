"""Whether a node serves users: only after some were connected for a while, and from then on."""

from __future__ import annotations

from narthex.app.user_traffic import UserTraffic


class Clock:
    """Monotonic seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_users_count_after_a_while_without_a_break() -> None:
    """A socket of a gate that is gone within seconds does not make a candidate serve users."""
    clock, present = Clock(), [True]
    traffic = UserTraffic(lambda: present[0], clock, 60.0)
    assert not traffic.serves_users()
    clock.now += 59
    assert not traffic.serves_users()
    present[0] = False
    clock.now += 2
    assert not traffic.serves_users()
    present[0] = True
    assert not traffic.serves_users()
    clock.now += 59
    assert not traffic.serves_users()
    clock.now += 1
    assert traffic.serves_users()


def test_a_node_that_served_users_goes_on_to_serve() -> None:
    """The runs of a user who closed the page are claimed at once, as before."""
    clock, present = Clock(), [True]
    traffic = UserTraffic(lambda: present[0], clock, 60.0)
    traffic.serves_users()
    clock.now += 60
    assert traffic.serves_users()
    present[0] = False
    assert traffic.serves_users()
