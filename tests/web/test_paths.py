"""The root of a request's path: a proxy's, a mount's."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from narthex.domain.refusals import Refusal
from narthex.web.paths import below_root, root_path, route_path
from narthex.web.problems import problem


@pytest.mark.parametrize(
    ("scope", "root", "route"),
    [
        ({"path": "/ws"}, "", "/ws"),
        ({"path": "/ws", "root_path": ""}, "", "/ws"),
        ({"path": "/chat/ws", "root_path": "/chat"}, "/chat", "/ws"),
        ({"path": "/chat/ws", "root_path": "/chat/"}, "/chat", "/ws"),
        ({"path": "/ws/ws/health", "root_path": "/ws"}, "/ws", "/ws/health"),
        ({"path": "/chatty/ws", "root_path": "/chat"}, "/chat", "/chatty/ws"),
        ({"path": "/chat", "root_path": "/chat"}, "/chat", "/chat"),
    ],
)
def test_a_route_is_named_without_the_root(scope: dict[str, Any], root: str, route: str) -> None:
    """Only a whole segment counts, and the root itself is no route."""
    assert (root_path(scope), route_path(scope)) == (root, route)


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/dashboard", "", "/dashboard"),
        ("/dashboard", "/chat", "/chat/dashboard"),
        ("/chat/dashboard", "/chat", "/chat/dashboard"),
        ("/chat", "/chat", "/chat"),
        ("/chatty", "/chat", "/chat/chatty"),
    ],
)
def test_a_path_as_clients_see_it(path: str, root: str, seen: str) -> None:
    """A route gets the root; a page that names its own address keeps it."""
    assert below_root(path, {"root_path": root}) == seen


async def test_a_mounted_problem_names_its_page_below_the_mount() -> None:
    """The body's length is right, and the same response without a mount names the page at the root."""
    app = Starlette(routes=[Mount("/in/here", app=problem(Refusal(code="auth_required"), "t"))])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
        found = await client.get("/in/here/x")
    assert found.json()["type"] == "/in/here/problems/auth_required"
    assert int(found.headers["content-length"]) == len(found.content)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(problem(Refusal(code="auth_required"), "t")),
        base_url="http://localhost",
    ) as client:
        assert (await client.get("/x")).json()["type"] == "/problems/auth_required"
