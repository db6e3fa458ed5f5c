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


def watched(view: FleetView) -> bool:
    """Whether operators watch, as of now."""
    return view.watched


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


def test_a_dead_process_is_listed_for_a_quarter_of_an_hour_and_one_that_left_for_a_minute() -> None:
    """Until exactly then; what is over is forgotten and does not come back."""
    for state, kept_s in (("ready", 900.0), ("stopped", 60.0)):
        clock = Clock()
        view = FleetView(clock)
        view.take(Snapshot(node="a", at=1, state=state))
        clock.now += kept_s
        (member,) = view.members()
        assert (member.status, member.age_s) == ("dead" if state == "ready" else "left", kept_s)
        clock.now += 0.1
        assert view.members() == []
        clock.now -= 10.0
        assert view.members() == []


def test_silence_is_judged_from_the_later_of_snapshot_and_watching() -> None:
    """While operators watch 3.5 s are no death, and a moment more are; when they leave, 25 s."""
    clock = Clock()
    view = FleetView(clock)
    view.take(Snapshot(node="a", at=1))
    assert view.watch(4.0)
    assert watched(view)
    clock.now += 3.5
    assert statuses(view) == {"a": "up"}
    clock.now += 0.25
    assert statuses(view) == {"a": "dead"}
    clock.now += 0.25
    assert not watched(view)
    assert statuses(view) == {"a": "up"}, "snapshots are sparse again"
    clock.now += 21.0
    assert statuses(view) == {"a": "up"}
    clock.now += 0.5
    assert statuses(view) == {"a": "dead"}


def test_watching_is_prolonged_and_never_cut_short() -> None:
    """A shorter announcement of another operator takes nothing away; it begins anew only after its end."""
    clock = Clock()
    view = FleetView(clock)
    assert view.watch(10.0)
    assert not view.watch(1.0)
    clock.now += 9.5
    assert watched(view)
    assert not view.watch(1.0)
    clock.now += 0.9
    assert watched(view)
    clock.now += 0.1
    assert not watched(view)
    assert view.watch(1.0)


def test_processes_are_listed_by_their_start_and_the_silent_one_gives_way() -> None:
    """By node where two started at once; a snapshot of the same moment counts as new."""
    clock = Clock()
    view = FleetView(clock)
    for node, started_at in (("b", 5.0), ("a", 5.0), ("c", 1.0)):
        view.take(Snapshot(node=node, started_at=started_at, at=1))
    assert [member.snapshot.node for member in view.members()] == ["c", "a", "b"]
    clock.now += 1.0
    for number in range(MAX_NODES - 3):
        view.take(Snapshot(node=f"n{number}", at=1))
    view.take(Snapshot(node="b", at=1, state="draining"))
    clock.now += 1.0
    view.take(Snapshot(node="a", at=2))
    view.take(Snapshot(node="late", at=1))
    names = {member.snapshot.node: member.snapshot.state for member in view.members()}
    assert "c" not in names
    assert (names["b"], len(names)) == ("draining", MAX_NODES)


def test_the_newest_refusals_of_all_processes_are_kept() -> None:
    """So many as an operator reads, in the order of arrival."""
    view = FleetView(Clock())
    for number in range(3):
        refusals = [
            RecentRefusal(at=float(at), code="c", detail="") for at in range(number * 100, number * 100 + 100)
        ]
        view.take(Snapshot(node=f"n{number}", at=1, refusals=refusals))
    assert [one.at for one in view.refusals] == [float(at) for at in range(100, 300)]
