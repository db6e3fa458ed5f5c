"""A wrong configuration never opens a port: exit 78, every problem named, no secret shown."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest

from tests.acceptance.program import Program

pytestmark = pytest.mark.acceptance

SECRET = "k3y-never-to-be-shown-anywhere-0123456789"
FIVE = {
    "E2E_TESTING": "1",
    "PYTEST_RUNNING": "1",
    "STAGING_E2E_TEST": "1",
    "E2E_OAUTH_SIMULATION_KEY": SECRET,
    "E2E_TEST_ENV": "staging",
}
PRODUCTION = {
    "ENVIRONMENT": "production",
    "NARTHEX_ALLOWED_HOSTS": "chat.example.com",
    "NARTHEX_JWT_SECRET": "s" * 40,
    "NARTHEX_JWT_ISSUER": "https://id.example.com",
}


def refused(program: Program) -> str:
    """Start it; it must exit 78 without having listened. Returns its output."""
    process = program.spawn()
    assert process.wait(20) == 78, program.log
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", program.port)) != 0
    return program.log


@pytest.mark.parametrize(
    "names", [*((name,) for name in FIVE), tuple(FIVE), *itertools.islice(itertools.combinations(FIVE, 2), 3)]
)
def test_production_with_end_to_end_variables_does_not_start(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Each of the five variables, alone and together: named, but its value never shown."""
    said = refused(Program(tmp_path, PRODUCTION | {name: FIVE[name] for name in names}))
    for name in names:
        assert name in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"ENVIRONMENT": "prod"}, "ENVIRONMENT"),
        ({"K_SERVICE": "chat"}, "ENVIRONMENT"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "ENVIRONMENT"),
        ({"NARTHEX_PROT": "80"}, "NARTHEX_PORT"),
        ({"NARTHEX_HOST": "0.0.0.0"}, "allow-remote-development"),
        (PRODUCTION | {"NARTHEX_ALLOWED_HOSTS": ""}, "NARTHEX_ALLOWED_HOSTS"),
    ],
)
def test_an_unset_or_wrong_variable_never_opens_a_port(
    tmp_path: Path, env: dict[str, str], names: str
) -> None:
    """Unknown environments, unset ones on a platform, typos, a development gateway on all addresses."""
    assert names in refused(Program(tmp_path, env))


def test_check_says_all_problems_at_once_and_no_secret(tmp_path: Path) -> None:
    """`narthex check` applies the same rules without starting."""
    program = Program(
        tmp_path,
        {
            "ENVIRONMENT": "prod",
            "NARTHEX_PORT": "99999",
            "NARTHEX_LOG_LEVEL": "loud",
            "NARTHEX_JWT_SECRET": SECRET[:10],
        },
    )
    done = program.run("check")
    assert done.returncode == 78
    for name in ("ENVIRONMENT", "PORT", "NARTHEX_LOG_LEVEL"):
        assert name in done.stdout + done.stderr
    assert SECRET[:10] not in done.stdout + done.stderr
    fine = Program(tmp_path, {"ENVIRONMENT": "staging", "NARTHEX_JWT_SECRET": "s" * 40}).run("check")
    assert fine.returncode == 0, fine.stderr
    assert "s" * 40 not in fine.stdout


def test_an_occupied_port_is_a_clear_error(tmp_path: Path) -> None:
    """Exit code 78 and the address, without a traceback."""
    program = Program(tmp_path, {})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", program.port))
        taken.listen()
        assert program.spawn().wait(20) == 78
    assert str(program.port) in program.log
    assert "Traceback" not in program.log
