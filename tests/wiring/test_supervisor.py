"""`narthex.wiring.supervisor`: small things; that workers serve, die and drain is in tests/acceptance."""

from __future__ import annotations

import pytest

from narthex.wiring.supervisor import url_of


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000"), ("::", "http://[::]:8000")],
)
def test_the_url_that_people_are_told_can_be_opened(host: str, url: str) -> None:
    """Also where the gateway listens on IPv6."""
    assert url_of(host, 8000) == url
