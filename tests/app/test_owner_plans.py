"""Which users' plans are stored, when, and which of two tokens counts."""

from __future__ import annotations

import pytest

from narthex.app.owner_plans import NOTED_FOR_S, OwnerPlans
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.plans import plan_of
from narthex.errors import DependencyError
from narthex.ports.threads import OwnerPlan
from tests.app.runs.fakes import FakeThreads


class Noted(FakeThreads):
    """Keeps the stored plans."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[tuple[str, str, float]] = []
        self.away = False

    async def note_plan(self, owner: OwnerPlan) -> int:
        if self.away:
            raise DependencyError("store", "The store is away.", "Wait.")
        self.plans.append((owner.user_id, owner.plan, owner.at))
        return 0


class House:
    """Owners over a fake, with a clock that tests move."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.threads = Noted()
        self.owner_plans = OwnerPlans(self.threads, plan_of, lambda: self.time)

    async def seen(self, plan: str, issued_at: float | None, subject: str = "ann") -> None:
        await self.owner_plans.seen(Identity(subject=subject, plan=plan, issued_at=issued_at))


async def test_a_plan_is_noted_once_an_hour_and_when_it_changes() -> None:
    """The store is called the first time, at a change, and once the entry is old; never in between."""
    house = House()
    for _ in range(3):
        await house.seen("free", 900.0)
    await house.seen("free", 950.0)
    await house.seen("enterprise", 960.0)
    house.time += NOTED_FOR_S - 1
    await house.seen("enterprise", 960.0)
    assert house.threads.plans == [("ann", "free", 900.0), ("ann", "enterprise", 960.0)]
    house.time += 1
    await house.seen("enterprise", 960.0)
    assert house.threads.plans[2:] == [("ann", "enterprise", 960.0)]


async def test_an_older_token_changes_nothing() -> None:
    """Two devices with two tokens: the later one counts, also when it is stored again."""
    house = House()
    await house.seen("enterprise", 960.0)
    await house.seen("free", 900.0)
    house.time += NOTED_FOR_S
    await house.seen("free", 900.0)
    assert [plan for _, plan, _ in house.threads.plans] == ["enterprise", "enterprise"]
    await house.seen("free", 961.0)
    assert house.threads.plans[-1] == ("ann", "free", 961.0)


@pytest.mark.parametrize(
    ("identity", "plan"),
    [
        (Identity(subject="g", identity_class=IdentityClass.GUEST), "guest"),
        (Identity(subject="t", tenant="e2e", e2e=True), "mid"),
        (Identity(subject="u", plan="nobody-sells-it"), "free"),
    ],
)
async def test_the_plan_is_the_one_whose_limits_hold(identity: Identity, plan: str) -> None:
    """Not the claim's text; and without `iat` it counts as issued now."""
    house = House()
    await house.owner_plans.seen(identity)
    assert house.threads.plans == [(identity.subject, plan, 1_000.0)]


async def test_what_could_not_be_noted_is_noted_next_time() -> None:
    """A failing store is an error, not a stored plan."""
    house = House()
    house.threads.away = True
    with pytest.raises(DependencyError):
        await house.seen("free", 900.0)
    house.threads.away = False
    await house.seen("free", 900.0)
    assert len(house.threads.plans) == 1


async def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those unseen for the longest are stored again."""
    monkeypatch.setattr("narthex.app.owner_plans.MAX_KNOWN", 2)
    house = House()
    for subject in ("a", "b", "c", "a"):
        await house.seen("free", 900.0, subject)
    assert [user for user, _, _ in house.threads.plans] == ["a", "b", "c", "a"]
