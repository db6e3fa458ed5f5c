"""`narthex.domain.descriptors`: what fits, and what is kept for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.descriptors import capacity
from narthex.domain.limits import Limits

DEFAULTS = Limits()


def test_where_there_is_room_nothing_changes() -> None:
    """The defaults, and 5 % more for HTTP beside the WebSockets."""
    fitted = capacity(DEFAULTS, 65_536)
    assert (fitted.limits, fitted.lowered) == (DEFAULTS, False)
    assert (fitted.tcp, fitted.tcp_per_address) == (21_000, 1_050)


@pytest.mark.parametrize(
    ("descriptors", "tcp", "sockets", "per_address", "unproven"),
    [(1024, 896, 852, 426, 426), (4096, 3584, 3405, 1000, 500), (20_000, 17_952, 17_055, 1000, 500)],
)
def test_usual_limits(descriptors: int, tcp: int, sockets: int, per_address: int, unproven: int) -> None:
    """The numbers of docs/operations.md."""
    fitted = capacity(DEFAULTS, descriptors)
    found = fitted.limits
    assert (fitted.tcp, found.max_connections, fitted.lowered) == (tcp, sockets, True)
    assert found.max_connections_per_address == per_address
    assert found.max_connections_unauthenticated == unproven


def test_an_operator_who_wants_no_limit_of_an_address_has_none() -> None:
    """All clients come through one unlisted proxy, or a load generator: the limit per address equals the total."""
    limits = Limits(max_connections=500, max_connections_per_address=500)
    fitted = capacity(limits, 65_536)
    assert fitted.limits.max_connections_per_address == 500
    assert fitted.tcp_per_address == fitted.tcp
    fitted = capacity(Limits(max_connections_per_address=1_000_000), 1024)
    assert fitted.limits.max_connections_per_address == fitted.limits.max_connections


@given(st.integers(8, 2_000_000), st.integers(1, 1_000_000), st.integers(1, 1_000_000))
def test_it_always_fits(descriptors: int, total: int, per_address: int) -> None:
    """Never more than asked for, never more than there is, always a share for the process itself and for HTTP."""
    fitted = capacity(Limits(max_connections=total, max_connections_per_address=per_address), descriptors)
    found = fitted.limits
    assert 1 <= found.max_connections <= total
    assert 1 <= found.max_connections_per_address <= per_address
    assert 1 <= fitted.tcp_per_address <= fitted.tcp < descriptors
    assert descriptors - fitted.tcp >= min(128, descriptors // 2)
    if descriptors >= 256 and total > 16:
        assert fitted.tcp - found.max_connections >= 16
