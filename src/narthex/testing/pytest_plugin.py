"""The pytest plugin (entry point `pytest11`): fixtures for tests of a guarded endpoint. docs/testing.md describes them.

Rules: inert until a fixture is used. Importing it loads nothing else of narthex, it has no hooks and changes no
option, and a fixture of the same name in a conftest.py replaces one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from narthex.testing import ConfinedIdentity, Issuer, StagingIdentities


@pytest.fixture(scope="session")
def narthex_issuer() -> Issuer:
    """An issuer with keys of its own. Start the server under test with its `environ`."""
    from narthex.testing import Issuer

    return Issuer()


@pytest.fixture(scope="session")
def ws_connect() -> Any:
    """A WebSocket, for `with` and `async with`: `ws_connect(url, token)`. A failure says what the doctor says."""
    from narthex.testing import ws_connect

    return ws_connect


@pytest.fixture(scope="session")
def assert_refused() -> Any:
    """Expects a refusal with a code: `assert_refused(url, code, token)`."""
    from narthex.testing import assert_refused

    return assert_refused


@pytest.fixture(scope="session")
def narthex_identity() -> StagingIdentities:
    """`narthex_identity("ada")`: a confined identity at NARTHEX_E2E_BASE_URL, by key or CI's OIDC token."""
    from narthex.testing import StagingIdentities

    return StagingIdentities()


@pytest.fixture
def sign_in_page(narthex_identity: StagingIdentities) -> Callable[..., Any]:
    """`sign_in_page(page)` signs a Playwright page in as a test identity; await it with the async API."""
    from narthex.testing import sign_in_page

    def sign_in(page: Any, identity: ConfinedIdentity | str = "", *, storage_key: str = "") -> Any:
        given = narthex_identity(identity) if isinstance(identity, str) else identity
        return sign_in_page(page, given, storage_key=storage_key)

    return sign_in
