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


class Rig:
    """Owners over a fake, with a clock that tests move."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.threads = Noted()
        self.owner_plans = OwnerPlans(self.threads, plan_of, lambda: self.time)

    async def seen(self, plan: str, issued_at: float | None, subject: str = "ann") -> None:
        await self.owner_plans.seen(Identity(subject=subject, plan=plan, issued_at=issued_at))


async def test_a_plan_is_noted_once_an_hour_and_when_it_changes() -> None:
    """The store is called the first time, at a change, and once the entry is old; never in between."""
    rig = Rig()
    for _ in range(3):
        await rig.seen("free", 900.0)
    await rig.seen("free", 950.0)
    await rig.seen("enterprise", 960.0)
    rig.time += NOTED_FOR_S - 1
    await rig.seen("enterprise", 960.0)
    assert rig.threads.plans == [("ann", "free", 900.0), ("ann", "enterprise", 960.0)]
    rig.time += 1
    await rig.seen("enterprise", 960.0)
    assert rig.threads.plans[2:] == [("ann", "enterprise", 960.0)]


async def test_an_older_token_changes_nothing() -> None:
    """Two devices with two tokens: the later one counts, also when it is stored again."""
    rig = Rig()
    await rig.seen("enterprise", 960.0)
    await rig.seen("free", 900.0)
    rig.time += NOTED_FOR_S
    await rig.seen("free", 900.0)
    assert [plan for _, plan, _ in rig.threads.plans] == ["enterprise", "enterprise"]
    await rig.seen("free", 961.0)
    assert rig.threads.plans[-1] == ("ann", "free", 961.0)


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
    rig = Rig()
    await rig.owner_plans.seen(identity)
    assert rig.threads.plans == [(identity.subject, plan, 1_000.0)]


async def test_what_could_not_be_noted_is_noted_next_time() -> None:
    """A failing store is an error, not a stored plan."""
    rig = Rig()
    rig.threads.away = True
    with pytest.raises(DependencyError):
        await rig.seen("free", 900.0)
    rig.threads.away = False
    await rig.seen("free", 900.0)
    assert len(rig.threads.plans) == 1


async def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those unseen for the longest are stored again."""
    monkeypatch.setattr("narthex.app.owner_plans.MAX_KNOWN", 2)
    rig = Rig()
    for subject in ("a", "b", "c", "a"):
        await rig.seen("free", 900.0, subject)
    assert [user for user, _, _ in rig.threads.plans] == ["a", "b", "c", "a"]
