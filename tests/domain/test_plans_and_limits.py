"""`narthex.domain.plans` and `narthex.domain.limits`: the tables of docs/design.md#limits and #runs."""

from __future__ import annotations

import pytest

from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.limits import Limits
from narthex.domain.plans import PLANS, plan_of, with_overrides

SECTION_6 = {
    "guest": (3, 1, 10, 1, 1),
    "free": (10, 2, 30, 30, 3),
    "early": (20, 5, 60, 90, 10),
    "mid": (50, 20, 120, 365, 50),
    "enterprise": (500, 200, 1200, None, 1000),
}


@pytest.mark.parametrize("name", SECTION_6)
def test_the_default_plans_are_the_design_s(name: str) -> None:
    """Connections, concurrent runs, messages a minute, history days, members of a thread."""
    plan = PLANS[name]
    assert (
        plan.connections,
        plan.concurrent_runs,
        plan.messages_per_minute,
        plan.history_days,
        plan.thread_members,
    ) == SECTION_6[name]


def test_section_8_has_its_defaults() -> None:
    """Every limit has its default from the design."""
    assert Limits() == Limits(
        handshake_timeout_s=10,
        inband_timeout_s=10,
        max_head_bytes=16_384,
        max_headers=100,
        max_message_bytes=65_536,
        max_fragments=1024,
        max_inflation_ratio=10,
        max_inflated_bytes=1_048_576,
        max_pending_bytes=1_048_576,
        max_lag_s=10,
        commands_per_s=60,
        commands_burst=120,
        control_frames_per_s=20,
        http_requests_per_s=60,
        http_requests_burst=120,
        max_connections_per_user=None,
        max_connections_per_address=1000,
        max_connections_unauthenticated=500,
        max_connections=20_000,
        max_json_depth=32,
        ping_interval_s=25,
        pong_timeout_s=10,
    )
    assert set(Limits().advertised()) == set(Limits.__struct_fields__)


def test_overrides_change_what_they_name() -> None:
    """The rest keeps its default; 0 days of history means no end; a new plan starts from free."""
    plans = with_overrides(
        {
            "free": {"connections": 7, "history_days": 0, "thread_members": None},
            "gold": {"concurrent_runs": 9},
        }
    )
    assert (plans["free"].connections, plans["free"].history_days) == (7, None)
    assert plans["free"].thread_members == 3
    assert (plans["gold"].name, plans["gold"].concurrent_runs, plans["gold"].connections) == ("gold", 9, 10)
    assert plans["mid"] == PLANS["mid"]


def test_one_connection_limit_for_all_plans() -> None:
    """NARTHEX_MAX_CONNECTIONS_PER_USER stands instead of every plan's own."""
    assert {plan.connections for plan in with_overrides({}, connections=4).values()} == {4}


def test_whose_plan_counts() -> None:
    """Test identities count as mid, guests as guest, unknown plans as free, whatever the token claims."""
    assert plan_of(Identity(subject="a", plan="enterprise")).name == "enterprise"
    assert plan_of(Identity(subject="a", plan="platinum")).name == "free"
    assert plan_of(Identity(subject="a", plan="enterprise", e2e=True)).name == "mid"
    guest = Identity(subject="a", plan="enterprise", identity_class=IdentityClass.GUEST)
    assert plan_of(guest).name == "guest"
