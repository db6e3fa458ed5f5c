"""The server behind `narthex guard`, from the settings: every problem at once, none for a guard that only answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from narthex.errors import ConfigError
from narthex.guard.process import upstream_of


def settings(**values: Any) -> Any:
    """The settings that are asked for."""
    asked = {"verify_only": False, "upstream": "ws://127.0.0.1:9000", "upstream_paths": ("/ws",)}
    return cast("Any", SimpleNamespace(**(asked | values)))


def test_the_address_and_the_paths() -> None:
    """Of a server behind; a guard that only answers proxies has none."""
    address, paths = upstream_of(settings(upstream_paths=("/chat",)))
    assert address is not None
    assert (address.host, address.port) == ("127.0.0.1", 9000)
    assert "/chat" in paths
    assert "/ws" not in paths
    address, paths = upstream_of(settings(verify_only=True, upstream=""))
    assert address is None
    assert "/ws" in paths


def test_every_problem_at_once() -> None:
    """No server, and a path that is no pattern; a server is none of a guard's that only answers proxies."""
    with pytest.raises(ConfigError) as raised:
        upstream_of(settings(upstream="", upstream_paths=("no-slash",)))
    assert [problem.partition(" ")[0] for problem in raised.value.problems] == [
        "NARTHEX_UPSTREAM",
        "NARTHEX_UPSTREAM_PATHS:",
    ]
    with pytest.raises(ConfigError, match="relays nothing"):
        upstream_of(settings(verify_only=True))
