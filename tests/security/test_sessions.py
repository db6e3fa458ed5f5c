"""Sessions of the embedded provider at the real program: renewed only while the user may sign in, and ended as a
whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from narthex.adapters.tokens.passwords import Argon2Passwords
from tests.acceptance.program import Program, shared
from tests.timing import within

pytestmark = pytest.mark.acceptance

PASSWORD = "correct horse battery staple"
STAGING = {"ENVIRONMENT": "staging", "NARTHEX_HOST": "127.0.0.1"}
PRODUCTION = {
    "ENVIRONMENT": "production",
    "NARTHEX_HOST": "127.0.0.1",
    "NARTHEX_ALLOWED_HOSTS": "chat.example.com",
}


async def user(email: str, *, password: str = PASSWORD, permissions: tuple[str, ...] = ("chat",)) -> str:
    """A `[[users]]` table."""
    hashed = await Argon2Passwords().hash(password)
    listed = ", ".join(f'"{name}"' for name in permissions)
    return f'[[users]]\nemail = "{email}"\npassword_hash = "{hashed}"\npermissions = [{listed}]\n'


def bearer(token: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {token}"}


async def signed_in(program: Program, email: str = "ada@example.com") -> dict[str, Any]:
    """The JSON of a new session."""
    answer = await program.post("/auth/login", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def renewed(program: Program, session: Mapping[str, Any]) -> httpx2.Response:
    """Use a session's refresh token."""
    return await program.post("/auth/refresh", json={"refresh_token": session["refresh_token"]})


async def me(program: Program, token: str) -> dict[str, Any]:
    """`/auth/me` with a token."""
    found: dict[str, Any] = (await program.get("/auth/me", headers=bearer(token))).json()
    return found


async def test_a_deleted_user_is_renewed_no_longer(tmp_path: Path) -> None:
    """A user who is removed from the settings may not refresh; a user who stays may."""
    settings = tmp_path / "narthex.toml"
    bob = await user("bob@example.com")
    settings.write_text(await user("ada@example.com", permissions=("chat", "admin")) + bob)
    program = Program(tmp_path, STAGING)
    try:
        await program.start()
        ada, other = await signed_in(program), await signed_in(program, "bob@example.com")
        program.terminate()
        settings.write_text(bob)
        await program.start()
        refused = await renewed(program, ada)
        assert (refused.status_code, refused.json()["code"]) == (401, "refresh_invalid")
        assert (await me(program, ada["access_token"]))["code"] == "token_revoked"  # the session as a whole
        assert (await renewed(program, other)).status_code == 200
    finally:
        program.end()


async def test_a_renewal_gives_the_rights_of_now_and_a_new_password_ends_sessions(tmp_path: Path) -> None:
    """A former administrator has no such right after the next refresh; a leaked password becomes worthless."""
    settings = tmp_path / "narthex.toml"
    settings.write_text(await user("ada@example.com", permissions=("chat", "admin")))
    program = Program(tmp_path, STAGING)
    try:
        await program.start()
        ada = await signed_in(program)
        assert "admin" in (await me(program, ada["access_token"]))["permissions"]
        program.terminate()
        hashed = settings.read_text()
        settings.write_text(hashed.replace(', "admin"', ""))
        await program.start()
        ada = (await renewed(program, ada)).json()
        assert (await me(program, ada["access_token"]))["permissions"] == ["chat"]
        program.terminate()
        settings.write_text(await user("ada@example.com", password="another one"))
        await program.start()
        assert (await renewed(program, ada)).json()["code"] == "refresh_invalid"
    finally:
        program.end()


async def test_a_session_of_development_is_worth_nothing_in_production(tmp_path: Path) -> None:
    """The same data directory, where any user could sign in without a password: neither token is accepted."""
    program = Program(tmp_path, {})
    try:
        await program.start()
        session = await signed_in(program, "root@example.com")
        program.terminate()
        program.env = dict(PRODUCTION)
        await program.start()
        assert (await renewed(program, session)).json()["code"] == "refresh_invalid"
        assert (await me(program, session["access_token"]))["code"] == "token_invalid"
    finally:
        program.end()


async def opened(program: Program, token: str) -> ClientConnection:
    """A live socket of a token's holder."""
    socket = await connect(program.ws, additional_headers=bearer(token), proxy=None)
    await socket.send('{"id":1,"connect":{}}')
    assert '"connect"' in str(await socket.recv())
    return socket


async def ended(socket: ClientConnection) -> tuple[int, str]:
    """How the gateway closed it."""
    try:
        async with asyncio.timeout(within(5)):
            while True:
                await socket.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return closed.rcvd.code, closed.rcvd.reason


async def over(program: Program, sessions: list[dict[str, Any]], sockets: list[ClientConnection]) -> None:
    """Every token of the sign-in is refused, and every socket that one of them opened is closed."""
    for socket in sockets:
        code, reason = await ended(socket)
        assert code == 3500 and reason.startswith("token_revoked"), (code, reason)
    for session in sessions:
        assert (await me(program, session["access_token"]))["code"] == "token_revoked"
    assert (await renewed(program, sessions[-1])).status_code == 401


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A gateway on which each test signs in its own users, without a password."""
    with shared(tmp_path_factory.mktemp("development")) as program:
        yield program


@pytest.mark.parametrize("way", ["reuse", "access", "refresh", "both", "revoke access", "revoke refresh"])
async def test_a_session_ends_as_one(development: Program, way: str) -> None:
    """By refresh reuse, by logout with either token or the newest pair, by RFC 7009: nothing of it remains valid."""
    program, email = development, f"{way.replace(' ', '-')}@example.com"
    first = await signed_in(program, email)
    bystander = await signed_in(program, email)  # another sign-in of the same user
    second = (await renewed(program, first)).json()
    sockets = [await opened(program, found["access_token"]) for found in (first, second)]
    if way == "reuse":
        assert (await renewed(program, first)).json()["code"] == "refresh_invalid"
    elif way.startswith("revoke"):
        token = second["access_token" if way.endswith("access") else "refresh_token"]
        assert (await program.post("/auth/revoke", json={"token": token})).status_code == 200
    else:
        headers = bearer(second["access_token"]) if way != "refresh" else {}
        body = {"refresh_token": second["refresh_token"]} if way != "access" else {}
        assert (await program.post("/auth/logout", json=body, headers=headers)).status_code == 204
    await over(program, [first, second], sockets)
    assert (await me(program, bystander["access_token"]))["tenant"] == "default"
    assert (await renewed(program, bystander)).status_code == 200


async def test_a_refresh_cookie_of_another_user_is_a_conflict(development: Program) -> None:
    """A planted refresh cookie beside a user's own session does not change the signed-in user."""
    program = development
    victim, attacker = (
        await signed_in(program, "victim@x.example"),
        await signed_in(program, "evil@x.example"),
    )
    cookies = f"narthex_session={victim['access_token']}; narthex_refresh={attacker['refresh_token']}"
    answer = await program.post("/auth/refresh", headers={"Cookie": cookies, "Origin": program.http})
    assert (answer.status_code, answer.json()["code"]) == (400, "credential_conflict")
    twice = f"narthex_refresh={victim['refresh_token']}; narthex_refresh={attacker['refresh_token']}"
    answer = await program.post("/auth/refresh", headers={"Cookie": twice, "Origin": program.http})
    assert (answer.status_code, answer.json()["code"]) == (400, "credential_conflict")
    assert (await renewed(program, victim)).status_code == 200
