"""The pytest plugin in a pytest of its own: inert until used; a team's suite against two kinds of guarded servers."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.guard.cores import SECRET
from tests.guard.process import guarding, node_server

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
PLUGIN = "narthex.testing.pytest_plugin"
KEY = "an-end-to-end-key-of-32-characters"
ADMIN = "admin-key-0123456789abcdef"


def arguments() -> list[str]:
    """Loads the plugin where this checkout was installed before it had the entry point."""
    known = any(point.value == PLUGIN for point in metadata.entry_points(group="pytest11"))
    return [] if known else ["-p", PLUGIN]


def run(pytester: pytest.Pytester, *more: str) -> pytest.RunResult:
    """The suite's result."""
    return pytester.runpytest_subprocess(
        "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", *arguments(), *more
    )


def test_the_entry_point_names_the_plugin() -> None:
    """The wheel's metadata lead pytest to a module that exists."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"narthex": PLUGIN}
    assert importlib.import_module(PLUGIN).__name__ == PLUGIN


def test_importing_it_loads_nothing() -> None:
    """Every pytest of a machine with narthex imports it."""
    code = f"import pytest, sys; seen = set(sys.modules); import {PLUGIN}; print(*sorted(set(sys.modules) - seen))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == ["narthex", "narthex._version", "narthex.testing", PLUGIN]


def test_it_is_inert_until_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    """It loads four small modules and no hook, and a fixture of a team's own has precedence."""
    pytester.makepyfile(
        """
        import sys
        import pytest

        @pytest.fixture
        def ws_connect():
            return "ours"

        def test_nothing_is_loaded(pytestconfig):
            loaded = {name for name in sys.modules if name.startswith("narthex")}
            assert loaded == {"narthex", "narthex._version", "narthex.testing", "narthex.testing.pytest_plugin"}
            plugin = sys.modules["narthex.testing.pytest_plugin"]
            assert not [name for name in dir(plugin) if name.startswith("pytest_")]

        def test_our_own_fixture(ws_connect):
            assert ws_connect == "ours"
        """
    )
    run(pytester).assert_outcomes(passed=2)


@pytest.mark.acceptance
def test_a_suite_against_a_guarded_application(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI under uvicorn in staging, trusted keys of the issuer, the key for identities, and two kinds of pages."""
    monkeypatch.setenv("E2E_OAUTH_SIMULATION_KEY", KEY)
    pytester.makepyfile(
        guarded_app=(HERE / "guarded_app.py").read_text(encoding="utf-8"),
        test_team=(HERE / "suite_of_a_team.py").read_text(encoding="utf-8"),
    )
    run(pytester).assert_outcomes(passed=11)


@pytest.mark.acceptance
async def test_a_suite_against_a_guard_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`narthex guard` in front of a Node server, with a secret that the team shares with its issuer."""
    env = {"NARTHEX_ADMIN_KEY": ADMIN, "E2E_OAUTH_SIMULATION_KEY": KEY, "E2E_TESTING": "1"}
    with node_server() as node:
        async with guarding(tmp_path, f"ws://127.0.0.1:{node.port}", env) as guard:
            for name, value in {
                "E2E_OAUTH_SIMULATION_KEY": KEY,
                "TEAM_URL": guard.http,
                "TEAM_SECRET": SECRET,
                "TEAM_ADMIN_KEY": ADMIN,
            }.items():
                monkeypatch.setenv(name, value)
            pytester.makepyfile(test_team=(HERE / "suite_of_a_team.py").read_text(encoding="utf-8"))
            run(pytester).assert_outcomes(passed=9, skipped=2)
