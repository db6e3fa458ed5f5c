"""`narthex keys`: the signing keys of the embedded provider and of the end-to-end exchange, in the store.

Rules: private parts are never printed; every command works while the server runs, which sees a change within
2 s; without `--now` a rotation ends no session.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.router import E2E_ISSUER, PROVIDER_ISSUER
from narthex.adapters.tokens.signing import KeyRing
from narthex.cli.flags import Config, DataDir, OfGuard
from narthex.cli.token import settings_of, with_store
from narthex.errors import EXIT_OK
from narthex.ports.credentials import SigningKey
from narthex.ports.store import Store

app = App(name="keys", help="Signing keys: list, generate, rotate.")

Purpose = Annotated[
    Literal["provider", "e2e", "guard"], Parameter(help="Whose keys; guard: those of a guard's assertions.")
]
Algorithm = Literal["ES256", "RS256", "EdDSA"]
Json = Annotated[bool, Parameter(name="--json", help="For machines.")]


@app.command(name="list")
def list_(
    *, json_: Json = False, guard: OfGuard = False, data_dir: DataDir = None, config: Config = None
) -> int:
    """List the keys that the store keeps.

    Examples:
        narthex keys list
    """

    async def work(store: Store) -> list[SigningKey]:
        return [key for purpose in ("provider", "e2e") for key in await store.credentials.keys(purpose)]

    return _show(work, data_dir, config, guard=guard, as_json=json_)


@app.command
def generate(
    *,
    purpose: Purpose = "provider",
    algorithm: Annotated[Algorithm, Parameter(help="For a new key.")] = "ES256",
    json_: Json = False,
    guard: OfGuard = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Make the first key if there is none (the server does it at its start); show what there is.

    Examples:
        narthex keys generate --algorithm ES256
    """

    async def work(store: Store) -> list[SigningKey]:
        ring = _ring(store, purpose, algorithm)
        await ring.load_or_create()
        return await store.credentials.keys(purpose)

    return _show(work, data_dir, config, guard=guard, as_json=json_)


@app.command
def rotate(
    *,
    purpose: Purpose = "provider",
    algorithm: Annotated[Algorithm, Parameter(help="For the new key.")] = "ES256",
    now: Annotated[
        bool, Parameter(help="Withdraw the old keys at once, after a leak. All users must sign in again.")
    ] = False,
    json_: Json = False,
    guard: OfGuard = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Make a new key; the old ones stay published until their last token has ended.

    Examples:
        narthex keys rotate
    """

    async def work(store: Store) -> list[SigningKey]:
        await _ring(store, purpose, algorithm).rotate(immediately=now)
        return await store.credentials.keys(purpose)

    return _show(work, data_dir, config, guard=guard, as_json=json_)


def _ring(store: Store, purpose: Literal["provider", "e2e", "guard"], algorithm: Algorithm) -> KeyRing:
    issuer = PROVIDER_ISSUER if purpose == "provider" else E2E_ISSUER  # it only makes keys, and signs nothing
    return KeyRing(store.credentials, purpose, issuer=issuer, rules=ClaimRules(), algorithm=algorithm)


def _show(
    work: Callable[[Store], Awaitable[list[SigningKey]]],
    data_dir: Path | None,
    config: Path | None,
    *,
    guard: bool,
    as_json: bool,
) -> int:
    """Do `work` with the store, and print the keys that it returns."""
    keys = asyncio.run(with_store(settings_of(data_dir, config, guard=guard), work, guard=guard))
    now = time.time()
    rows = [
        {
            "kid": key.kid,
            "purpose": key.purpose,
            "algorithm": key.algorithm,
            "state": _state(key, keys, now),
            "created_at": _date(key.created_at),
            "signs_from": _date(key.not_before),
            "published_until": _date(key.retire_at) if key.retire_at else "",
        }
        for key in keys
    ]
    if as_json:
        print(json.dumps(rows))
        return EXIT_OK
    if not rows:
        print("The store has no keys yet; `narthex serve` creates the first one.")
    for row in rows:
        until = f", published until {row['published_until']}" if row["published_until"] else ""
        print(f"{row['kid']}  {row['algorithm']:<5}  {row['state']:<8}  from {row['signs_from']}{until}")
    return EXIT_OK


def _state(key: SigningKey, keys: list[SigningKey], now: float) -> str:
    if key.retire_at and key.retire_at <= now:
        return "retired"
    if key.not_before > now:
        return "next"
    rivals = [
        other.not_before
        for other in keys
        if other.purpose == key.purpose and other.not_before <= now and not 0 < other.retire_at <= now
    ]
    return "signing" if key.not_before >= max(rivals) else "old"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
