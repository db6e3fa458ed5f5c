"""The view of all processes: which are up, dead or gone in order."""

from __future__ import annotations

from narthex.app.fleet import FleetView, RecentRefusal, Snapshot
from narthex.app.fleet.view import DEAD_AFTER_S, KEPT_REFUSALS, MAX_NODES, SPARSE_DEAD_AFTER_S


class Clock:
    """Monotonic seconds that tests move."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def statuses(view: FleetView) -> dict[str, str]:
    """By node."""
    return {member.snapshot.node: member.status for member in view.members()}


def test_process_whose_snapshots_stop_is_dead_within_seconds_while_operators_watch() -> None:
    """A process that says `stopped` has left instead."""
    clock = Clock()
    view = FleetView(clock)
    view.watch(60)
    for node in ("a", "b", "c"):
        view.take(Snapshot(node=node, at=1))
    clock.now += DEAD_AFTER_S - 0.1
    view.take(Snapshot(node="b", at=5))
    view.take(Snapshot(node="c", at=5, state="stopped"))
    assert statuses(view) == {"a": "up", "b": "up", "c": "left"}
    clock.now += 0.2
    assert statuses(view) == {"a": "dead", "b": "up", "c": "left"}


def test_nobody_is_dead_because_operators_begin_to_watch() -> None:
    """Until then snapshots come every 10 s, so silence of a few seconds means nothing."""
    clock = Clock()
    view = FleetView(clock)
    view.take(Snapshot(node="a", at=1))
    clock.now += 9.0
    assert view.watch(60)
    assert not view.watch(60)
    assert statuses(view) == {"a": "up"}
    clock.now += DEAD_AFTER_S + 0.1
    assert statuses(view) == {"a": "dead"}


def test_process_is_dead_after_two_missing_snapshots_when_no_operator_watches() -> None:
    """Snapshots are sparse then."""
    clock = Clock()
    view = FleetView(clock)
    view.take(Snapshot(node="a", at=1))
    clock.now += SPARSE_DEAD_AFTER_S - 1
    assert statuses(view) == {"a": "up"}
    clock.now += 2
    assert statuses(view) == {"a": "dead"}


def test_late_snapshot_does_not_replace_a_newer_one() -> None:
    """The bus may deliver out of order."""
    view = FleetView(Clock())
    view.take(Snapshot(node="a", at=2, state="stopped"))
    view.take(Snapshot(node="a", at=1))
    assert statuses(view) == {"a": "left"}


def test_view_is_bounded() -> None:
    """Nodes that come and go for weeks, and floods of refusals, take no more memory."""
    clock = Clock()
    view = FleetView(clock)
    for number in range(MAX_NODES + 10):
        clock.now += 0.001
        refusal = RecentRefusal(at=number, code="auth_required", detail="")
        view.take(Snapshot(node=f"n{number}", at=1, refusals=[refusal]))
    assert len(view.members()) == MAX_NODES
    assert len(view.refusals) == KEPT_REFUSALS
    clock.now += 10_000
    assert view.members() == []
