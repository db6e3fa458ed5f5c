"""docs/environments.md, cell by cell: its tables against gateways in each environment, and against `decide`.

Not here: the rules themselves (`tests/domain/test_environment.py`), each carrier's own rules (`tests/security`).
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from pathlib import Path
from typing import Final

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from narthex.domain.environment import EnvironmentPolicy, decide
from narthex.testing import Issuer
from tests.acceptance.program import Program, running
from tests.docs.blocks import ROOT
from tests.timing import within

PAGE: Final = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
KEY: Final = secrets.token_hex(32)
WITH_KEY: Final = "staging with the end-to-end key"
PLAIN_VARIABLES: Final = re.compile(r"`(\w+=\w+)` only")
COLUMNS: Final = {
    "development": ("development, testing", {"ENVIRONMENT": "development"}),
    "testing": ("development, testing", {"ENVIRONMENT": "testing"}),
    "staging": ("staging", {"ENVIRONMENT": "staging"}),
    "with the key": (WITH_KEY, {"ENVIRONMENT": "staging", "E2E_OAUTH_SIMULATION_KEY": KEY}),
    "production": ("production", {"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "chat.example.com"}),
}
"""Gateway → its column in the page's tables, and its variables."""


def table(heading: str) -> dict[str, dict[str, str]]:
    """The table below a heading: first cell of the row → heading of the column → cell."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in section.splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]
    head, *body = rows
    return {row[0].strip(): dict(zip(head[1:], row[1:], strict=True)) for row in body}


def policy(environ: dict[str, str], *, guests: bool = False) -> EnvironmentPolicy | list[str]:
    """`decide` with the variables of a gateway."""
    key = environ.get("E2E_OAUTH_SIMULATION_KEY", "")
    return decide(environ, keys=[key] if key else [], allow_anonymous=guests)


def test_which_environment_is_this() -> None:
    """What health shows in each row is what `decide` gives to it."""
    rows = table("Which environment is this?")
    assert len(rows) == 5
    for described, cells in rows.items():
        name, _, variables = described.partition(", ")
        environ = {"ENVIRONMENT": name}
        if plain := PLAIN_VARIABLES.search(variables):
            environ |= dict([plain[1].split("=")])
        if variables == "with the key":
            environ["E2E_OAUTH_SIMULATION_KEY"] = KEY
        found = policy(environ)
        assert isinstance(found, EnvironmentPolicy)
        shown = found.e2e_testing()
        assert cells["`environment`"] == f"`{found.environment}`", described
        assert cells["`e2e_testing.enabled`"] == str(shown["enabled"]).lower(), described
        assert cells["`variables`"].removeprefix("always ") == f"`{shown['variables']}`".replace("'", '"'), (
            described
        )
        assert cells["`auth_bypass_active`"] == str(shown["auth_bypass_active"]).lower(), described
        assert cells["`reason`"].strip("`") == shown.get("reason", ""), described


def test_the_five_variables() -> None:
    """Each detects with the value of its row, and only the key admits test identities."""
    rows = table("The five end-to-end variables")
    assert len(rows) == 5
    for cell, cells in rows.items():
        (name, *_) = re.findall(r"`(\w+)`", cell)
        value = cells["detected if it is"]
        environ = {"ENVIRONMENT": "staging", name: KEY if value == "not empty" else value.strip("`")}
        found = policy(environ)
        assert isinstance(found, EnvironmentPolicy)
        assert found.e2e.enabled, name
        assert found.auth_bypass_active == cells["admits test identities"].startswith("**yes**"), name
        assert isinstance(policy(environ | {"ENVIRONMENT": "production"}), list), name


def test_rows_that_need_no_client() -> None:
    """Guests, the address to listen on, and a variable of end-to-end tests: cell by cell."""
    rows = table("At a glance")
    for column, environ in COLUMNS.values():
        plain = policy(environ)
        assert isinstance(plain, EnvironmentPolicy)
        guests = policy(environ, guests=True)
        assert rows["guests (`--allow-anonymous`)"][column] == (
            "start refused" if isinstance(guests, list) else "if asked for"
        )
        listens = {"127.0.0.1": "`127.0.0.1`", "0.0.0.0": "all addresses"}[plain.host]
        assert rows["listens on, by default"][column] == listens
        detected = policy(environ | {"E2E_TESTING": "1"})
        assert rows["an end-to-end variable"][column] == (
            "**start refused**" if isinstance(detected, list) else "detected"
        )


@pytest.mark.acceptance
@pytest.mark.timeout(within(120))
@pytest.mark.parametrize("gateway", COLUMNS)
async def test_every_cell_of_a_column_is_what_a_gateway_does(gateway: str, tmp_path: Path) -> None:
    """Handshakes and requests with each kind of credential, and with none, in each environment."""
    column, environ = COLUMNS[gateway]
    issuer = Issuer()
    glance = table("At a glance")
    carriers = {
        name: cells | {WITH_KEY: cells["staging with the key"]} for name, cells in table("Carriers").items()
    }
    async with running(tmp_path, issuer.environ | environ, ("--host", "127.0.0.1")) as program:
        asked = Asked(program, issuer)
        bare = await asked.handshake({})
        required = "**required**" if bare == 401 else "optional"
        assert glance["credential before the upgrade"][column] == required
        without = {101: "upgraded **inert**", 401: "401 `auth_required`"}[bare]
        assert glance["handshake without one"][column] == without
        assert glance["handshake with a bad one"][column] == str(
            await asked.handshake(asked.bearer(issuer.forged()))
        )

        key = {"X-E2E-Bypass-Key": KEY}
        tested = await asked.handshake(key)
        admitted = {101: ("by proof",), 403: ("no: 403", "**never**: 403", "only with the key, by proof")}[
            tested
        ]
        assert glance["test identities"][column] in admitted
        by_key = carriers["`X-E2E-Bypass-Key`, or the exchange `POST /auth/e2e/test-auth`"][column]
        assert by_key in (("yes",) if tested == 101 else ("no", "with the key"))
        assert await asked.exchange(key) in ((200,) if tested == 101 else (403, 503))

        signed_in = await program.post("/auth/login", json={"email": "ada@example.com"})
        without_password = "if no users are configured" if signed_in.status_code == 200 else "no"
        assert glance["sign-in without a password"][column] == without_password

        good = issuer.valid("ada")
        assert await asked.handshake(asked.bearer(good)) == 101
        assert await asked.handshake({}, subprotocols=["jwt-auth", f"jwt.{good}"]) == 101
        ticket = (await program.post("/ws/ticket", headers=asked.bearer(good))).json()["ticket"]
        assert await asked.handshake({}, query=f"?ticket={ticket}") == 101
        for name in (
            "`Authorization: Bearer`",
            "subprotocols `jwt-auth, jwt.<token>`",
            "ticket from `POST /ws/ticket`",
        ):
            assert carriers[name][column] == "yes"
        later = "yes" if bare == 101 else "after an expired one only"
        assert carriers["token in the first `connect`"][column] == later
        opened = {} if bare == 101 else asked.bearer(issuer.expired("ada"))
        assert '"user":"ada"' in await asked.whoami(opened, good)


class Asked:
    """Handshakes and requests at one gateway."""

    def __init__(self, program: Program, issuer: Issuer) -> None:
        self._program, self._issuer = program, issuer

    @staticmethod
    def bearer(token: str) -> dict[str, str]:
        """The header of a token."""
        return {"Authorization": f"Bearer {token}"}

    async def handshake(
        self, headers: dict[str, str], *, query: str = "", subprotocols: list[str] | None = None
    ) -> int:
        """The status of an upgrade."""
        offered = [Subprotocol(name) for name in subprotocols] if subprotocols else None
        try:
            async with connect(
                self._program.ws + query, proxy=None, additional_headers=headers, subprotocols=offered
            ):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    async def exchange(self, headers: dict[str, str]) -> int:
        """The status of the exchange of a key for a test identity."""
        async with httpx2.AsyncClient(trust_env=False, base_url=self._program.http) as client:
            body = {"email": "ada@example.com", "test_run": "run-42"}
            return (await client.post("/auth/e2e/test-auth", headers=headers, json=body)).status_code

    async def whoami(self, headers: dict[str, str], token: str) -> str:
        """The replies on a connection whose credential comes in the first `connect`."""
        commands = [
            {"id": 1, "connect": {"token": token}},
            {"id": 2, "rpc": {"method": "whoami", "data": {}}},
        ]
        async with connect(self._program.ws, proxy=None, additional_headers=headers) as socket:
            await socket.send("\n".join(map(json.dumps, commands)))
            said = ""
            async with asyncio.timeout(within(10)):
                while '"id":2' not in said:
                    said += str(await socket.recv())
        return said
