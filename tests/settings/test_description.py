"""The display of settings: never a secret; docs/settings.md agrees with the model."""

from __future__ import annotations

import ast
from pathlib import Path

from narthex.domain.limits import Limits
from narthex.settings import describe, load, render_docs
from narthex.settings.groups import option_fields
from narthex.settings.model import RENEWABLE
from narthex.settings.options import facts

ROOT = Path(__file__).parents[2]


def test_rows_show_values_and_where_they_came_from() -> None:
    """One row for each option."""
    rows = {row.name: row for row in describe(load({"port": 9}, {"NARTHEX_AGENT": "a:b,c:d"}))}
    assert list(rows) == list(option_fields())
    assert (rows["port"].value, rows["port"].source) == ("9", "--port")
    assert (rows["agents"].value, rows["agents"].source) == ("a:b, c:d", "NARTHEX_AGENT")
    assert rows["deflate"].value == "off"
    assert rows["max_connections_per_user"].value == "by plan"


def test_a_secret_shows_only_whether_it_is_set() -> None:
    """And of an engine's URL neither user nor query, where passwords stand."""
    environ = {
        "NARTHEX_ADMIN_KEY": "the-admin-key-0123456789",
        "NARTHEX_STORE_URL": "postgresql://user:hidden@db.example:5432/narthex?password=hidden",
    }
    rows = {row.name: row.value for row in describe(load({}, environ))}
    assert rows["admin_key"] == "set"
    assert rows["jwt_secret"] == "not set"
    assert rows["store_url"] == "postgresql://db.example:5432/narthex"


def test_every_option_is_described() -> None:
    """A sentence each, and a variable."""
    for name, (section, field) in option_fields().items():
        assert field.description, name
        assert facts(name, field, section).variables, name


def test_no_option_is_taken_and_ignored() -> None:
    """Each is read by a rule, by the model for others, or by the wiring."""
    source = ROOT / "src" / "narthex"
    files = [
        *(source / "wiring").rglob("*.py"),
        *(source / "guard").rglob("*.py"),
        *(source / "status").rglob("*.py"),
        *(source / "cli").glob("*.py"),
        *(source / "settings").glob("*.py"),
    ]
    read = {
        node.attr
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    by_name = {name for names in RENEWABLE.values() for name in names}
    through_limits = set(Limits.__struct_fields__)
    assert set(option_fields()) - read - by_name - through_limits == set()


def test_the_page_is_current() -> None:
    """docs/settings.md is generated: python -m tests.check --write-docs."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == render_docs()
