"""When a lease of another node has lapsed: by the time in which this node saw it unchanged, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from narthex.app.runs.observed import ObservedLeases
from narthex.ports.runs import LeaseSeen

LEASE_S = 8.0
GAP_S = 2.0
LEASE = LeaseSeen(
    tenant="default", run_id="r", state="running", owner="n1", attempt=1, beat=1, lease_until=0.0, agent="a",
    restartable=False,
)  # fmt: skip


def changed(**values: Any) -> LeaseSeen:
    """The lease with other values."""
    return msgspec.structs.replace(LEASE, **values)


class Looks:
    """Looks of one node at the leases; reading takes no time unless it is said."""

    def __init__(self) -> None:
        self.observed = ObservedLeases(LEASE_S, GAP_S)
        self.now = 100.0

    def after(
        self,
        seconds: float,
        *leases: LeaseSeen,
        takes_s: float = 0.0,
        ours: tuple[str, ...] = (),
        **more: float,
    ) -> list[str]:
        """Look `seconds` after the last look; the runs that may be taken over."""
        asked_at = self.now + seconds
        self.now = asked_at + takes_s
        return [one.run_id for one in self.observed.lapsed(leases, asked_at, self.now, ours, **more)]


def test_a_lease_lapses_when_it_was_unchanged_for_its_whole_time() -> None:
    """Eight seconds of looks two seconds apart: not at the fourth look, but at the fifth."""
    looks = Looks()
    assert looks.after(0, LEASE) == []
    assert [looks.after(2, LEASE) for _ in range(4)] == [[], [], [], ["r"]]


@pytest.mark.parametrize("renewed", [{"beat": 2}, {"attempt": 2}, {"owner": "n2"}, {"lease_until": 1.0}])
def test_any_change_begins_the_time_anew(renewed: dict[str, Any]) -> None:
    """A renewal, another attempt, another owner."""
    looks, after = Looks(), changed(**renewed)
    assert [looks.after(2, LEASE) for _ in range(4)] == [[]] * 4
    assert [looks.after(2, after) for _ in range(4)] == [[]] * 4
    assert looks.after(2, after) == ["r"]


def test_a_lease_that_was_missing_from_a_look_begins_anew() -> None:
    """It may have been given back and taken again in between."""
    looks = Looks()
    for _ in range(4):
        assert looks.after(2, LEASE) == []
    assert looks.after(2) == []
    assert [looks.after(2, LEASE) for _ in range(4)] == [[]] * 4
    assert looks.after(2, LEASE) == ["r"]


def test_of_a_long_gap_between_looks_only_a_part_counts() -> None:
    """A suspended node, or one that could not read the store, has seen nothing meanwhile."""
    looks = Looks()
    looks.after(0, LEASE)
    assert [looks.after(3_600, LEASE) for _ in range(3)] == [[], [], []]
    assert looks.after(1.9, LEASE) == []
    assert looks.after(0.1, LEASE) == ["r"]


def test_the_time_of_the_reading_itself_does_not_count() -> None:
    """A lease may have changed while it was read: the time runs from the end of one reading to the next beginning."""
    looks = Looks()
    looks.after(0, LEASE, takes_s=60.0)
    assert [looks.after(2, LEASE, takes_s=60.0) for _ in range(4)] == [[], [], [], ["r"]]


def test_a_clock_that_seems_to_run_backwards_takes_nothing_away() -> None:
    """A reading that began before the last one ended (two callers) counts as no time."""
    looks = Looks()
    looks.after(0, LEASE)
    for _ in range(3):
        looks.after(2, LEASE)
    looks.after(-5, LEASE)
    assert looks.after(2, LEASE) == ["r"]


def test_a_lease_without_an_owner_may_be_taken_at_once() -> None:
    """A clean stop gives its leases up: no time has to pass, not even since the node's first look."""
    assert Looks().after(0, changed(owner="")) == ["r"]


def test_own_leases_are_passed_over_and_others_are_not() -> None:
    """This node renews its own; one that it lost is another node's from the next look on."""
    looks = Looks()
    for _ in range(6):
        assert looks.after(2, LEASE, changed(run_id="s", owner=""), ours=("r",)) == ["s"]
    assert [looks.after(2, LEASE) for _ in range(4)] == [[]] * 4
    assert looks.after(2, LEASE) == ["r"]


def test_a_restartable_run_is_left_to_other_nodes_for_the_courtesy() -> None:
    """A node without users waits longer for what it would start again, owned or not; other runs it takes as always."""
    looks = Looks()
    again, plain = changed(restartable=True), changed(run_id="p")
    found = [looks.after(seconds, again, plain, courtesy_s=2.0) for seconds in (0, 2, 2, 2, 2, 1.9, 0.1)]
    assert found == [[], [], [], [], ["p"], ["p"], ["r", "p"]]
    looks, free = Looks(), changed(owner="", restartable=True)
    assert [looks.after(seconds, free, courtesy_s=2.0) for seconds in (0, 1.9, 0.1)] == [[], [], ["r"]]
