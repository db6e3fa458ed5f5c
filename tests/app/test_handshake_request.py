"""`narthex.app.handshake_request`: the facts in a request head, before any decision."""

from __future__ import annotations

import pytest

from narthex.app.handshake_request import HandshakeRequest, read_request
from narthex.domain.addresses import TrustedProxies
from tests.app.handshake_harness import KEY, head


def arrived(**options: str) -> HandshakeRequest:
    """A request without a credential."""
    return read_request(head(**options), TrustedProxies(), now=1.0, wait_s=1.0, handshake_timeout_s=10.0)


def test_health_asking_itself_is_no_user() -> None:
    """Over loopback and with its mark."""
    assert arrived(query="probe").traffic == "probe"
    assert arrived(query="probe", peer="::1").traffic == "probe"


@pytest.mark.parametrize("options", [{}, {"query": "probe=1"}, {"query": "probe", "peer": "10.0.0.9"}])
def test_nobody_else_takes_themselves_out_of_the_numbers(options: dict[str, str]) -> None:
    """The mark alone, from another address, has no effect."""
    assert arrived(**options).traffic == "user"


@pytest.mark.parametrize(
    "more",
    [("x-forwarded-for", "1.2.3.4"), ("authorization", "Bearer x"), ("x-e2e-bypass-key", KEY)],
)
def test_whoever_came_through_a_proxy_or_brings_something_is_a_user(more: tuple[str, str]) -> None:
    """A proxy on the same machine connects over loopback too, and a credential is verified like any user's."""
    found = read_request(
        head(None, more, query="probe"), TrustedProxies(), now=1.0, wait_s=1.0, handshake_timeout_s=10.0
    )
    assert found.traffic == "user"
