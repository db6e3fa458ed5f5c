"""Renewed secrets count without a restart, from files and from Secret Manager; what cannot be read changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.telemetry.redaction import REDACTOR
from narthex.errors import ConfigError
from narthex.settings import Settings, load
from narthex.wiring.secret_renewal import SecretRenewal, secret_renewal

FIRST, SECOND = "the-first-secret-0123456789abcdef-x", "the-second-secret-0123456789abcdef-y"


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **members: Any) -> None:
        self.lines.append(("info", event, members))

    def warning(self, event: str, **members: Any) -> None:
        self.lines.append(("warning", event, members))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Secrets of one test are not masked in the next."""
    yield
    REDACTOR.forget()


def of_files(directory: Path) -> Settings:
    """Settings whose secrets are in files, as Kubernetes mounts them."""
    for name in ("admin", "metrics", "e2e", "jwt"):
        (directory / name).write_text(f"{FIRST}-{name}\n")
    environ = {
        "ENVIRONMENT": "testing",
        "NARTHEX_ADMIN_KEY_FILE": str(directory / "admin"),
        "NARTHEX_METRICS_TOKEN_FILE": str(directory / "metrics"),
        "E2E_OAUTH_SIMULATION_KEY_FILE": str(directory / "e2e"),
        "NARTHEX_JWT_SECRET_FILE": str(directory / "jwt"),
        "NARTHEX_JWT_TENANT": "default",
    }
    return load({}, environ)


async def test_a_file_that_changed_counts_for_those_who_hold_the_secrets(tmp_path: Path) -> None:
    """The objects that consumers took at the start have the new values; the old ones are worth nothing."""
    settings = of_files(tmp_path)
    held = {"admin": settings.admin_keys(), "metrics": settings.metrics_tokens(), "e2e": settings.e2e_keys()}
    log = Log()
    renewal = SecretRenewal(settings, log)
    await renewal.look()
    assert log.lines == []
    for name in held:
        (tmp_path / name).write_text(f"{SECOND}-{name}\n")
    await renewal.look()
    assert {name: list(keys) for name, keys in held.items()} == {name: [f"{SECOND}-{name}"] for name in held}
    assert sorted(members["setting"] for _, _, members in log.lines) == [
        *("E2E_OAUTH_SIMULATION_KEY", "NARTHEX_ADMIN_KEY", "NARTHEX_METRICS_TOKEN"),
    ]
    assert SECOND not in REDACTOR.text(f"{SECOND}-admin", limit=200)
    await renewal.look()
    assert len(log.lines) == 3


async def test_a_secret_that_needs_a_restart_is_told_once(tmp_path: Path) -> None:
    """Tokens that were signed with the old one are under way: two live keys are the issuer's matter (JWKS)."""
    settings = of_files(tmp_path)
    log = Log()
    (tmp_path / "jwt").write_text(f"{SECOND}-jwt")
    renewal = SecretRenewal(settings, log)
    await renewal.look()
    await renewal.look()
    assert [(level, members["setting"]) for level, _, members in log.lines] == [
        ("warning", "NARTHEX_JWT_SECRET")
    ]


@pytest.mark.parametrize("broken", ["", None], ids=["empty", "gone"])
async def test_what_cannot_be_read_leaves_the_old_secret(broken: str | None, tmp_path: Path) -> None:
    """A half-written or removed file locks no operator out; the fault is logged once, its end is noticed."""
    settings = of_files(tmp_path)
    keys, log = settings.admin_keys(), Log()
    renewal = SecretRenewal(settings, log)
    file = tmp_path / "admin"
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    await renewal.look()
    await renewal.look()
    assert list(keys) == [f"{FIRST}-admin"]
    assert [(level, event) for level, event, _ in log.lines] == [("warning", "secrets cannot be read")]
    assert str(file) in log.lines[0][2]["detail"]
    file.write_text(f"{SECOND}-admin")
    await renewal.look()
    assert list(keys) == [f"{SECOND}-admin"]


async def test_secret_manager_s_latest_version(tmp_path: Path) -> None:
    """A new version counts; one that is denied for a moment does not take the old one away."""
    versions: dict[str, str | None] = {"gcp-secret://projects/p/secrets/admin": FIRST}

    def read(name: str) -> str:
        found = versions[name]
        if found is None:
            raise ConfigError([f"{name} cannot be read (PermissionDenied)."])
        return found

    environ = {"NARTHEX_ADMIN_KEY": "gcp-secret://projects/p/secrets/admin"}
    settings = load({"data_dir": tmp_path}, environ, gcp=read)
    keys, log = settings.admin_keys(), Log()
    renewal = SecretRenewal(settings, log)
    for version, expected in ((SECOND, SECOND), (None, SECOND), (FIRST, FIRST)):
        versions["gcp-secret://projects/p/secrets/admin"] = version
        await renewal.look()
        assert list(keys) == [expected]


def test_without_a_reference_nothing_is_read_again(tmp_path: Path) -> None:
    """A secret in a variable cannot change; `0` switches it off."""
    assert secret_renewal(load({}, {"NARTHEX_ADMIN_KEY": FIRST}), Log()) == []
    file = tmp_path / "key"
    file.write_text(FIRST)
    environ = {"NARTHEX_ADMIN_KEY_FILE": str(file)}
    assert len(secret_renewal(load({}, environ), Log())) == 1
    assert secret_renewal(load({}, environ | {"NARTHEX_SECRETS_REFRESH_S": "0"}), Log()) == []
