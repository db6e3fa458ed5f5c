"""Numbers in prose are those of the code: whoever changes one is told of the page that says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from narthex.app import provider
from narthex.domain.plans import PLANS
from narthex.e2e import scenarios
from narthex.e2e.scenario import Category, every
from narthex.web import access, auth

DOCS = Path(__file__).parents[2] / "docs"
WORDS = {2: "two", 3: "three", 4: "four", 10: "ten"}


def said(page: str) -> str:
    """A page on one line."""
    return " ".join((DOCS / page).read_text(encoding="utf-8").split())


def test_the_three_limits_of_failed_sign_ins() -> None:
    """docs/authentication.md names each, with its window."""
    text = said("authentication.md")
    assert f"limited in any stretch of {provider.FAILED_WINDOW_S} s" in text
    assert f"{provider.OF_ADDRESS_AT_ACCOUNT} of one address at one account" in text
    assert f"{provider.OF_ADDRESS_AT_ALL} of one address at all accounts" in text
    assert f"{provider.OF_ALL_AT_ACCOUNT} of all addresses at one account" in text
    assert auth.WRONG_KEYS == access.WRONG_KEYS == 10
    assert "ten wrong ones a minute and address" in text


def test_the_plans() -> None:
    """docs/plans.md has every limit of every plan, and no other."""
    rows = [line.strip("| ").split(" | ") for line in (DOCS / "plans.md").read_text().splitlines()]
    names = rows[rows.index(next(row for row in rows if row[-1:] == ["enterprise"]))]
    found = {row[0].split("`")[1]: row[1:] for row in rows if len(row) == len(names) + 1 and "`" in row[0]}
    assert list(PLANS) == names
    for at, plan in enumerate(PLANS.values()):
        limits = {name: value for name, value in structs.asdict(plan).items() if name != "name"}
        documented = {
            name: None if (text := row[at]) == "no end" else int(text.replace(",", ""))
            for name, row in found.items()
        }
        assert documented == limits


def wrong_keys(category: Category | None) -> int:
    """How many wrong keys the scenarios of a category (None: those of every run) try, by their source."""
    files = {"smoke.py": None, "critical_path.py": Category.E2E}
    folder = Path(scenarios.__file__).parent
    text = "".join((folder / name).read_text() for name, of in files.items() if of == category)
    return len(re.findall(r"ws_url, wrong\)|headers=wrong\b|ws_url, \{KEY_HEADER: \"", text))


def test_wrong_keys_of_a_run() -> None:
    """docs/testing.md says how many runs a minute one runner may make, of a gateway that takes ten wrong keys."""
    always, more = wrong_keys(None), wrong_keys(Category.E2E)
    text = said("testing.md")
    assert f"Each run tries {WORDS[always]} wrong keys" in text
    assert f"{WORDS[always + more]} if the category `e2e` is in it" in text
    runs = access.WRONG_KEYS // (always + more)
    assert (
        f"{WORDS[runs]} whole runs a minute from one runner are fine, with {WORDS[runs + 1]} some have to wait"
        in text
    )


def test_the_number_of_scenarios() -> None:
    """docs/testing.md counts those of the staging suite."""
    groups = [scenario for scenario in every() if scenario.category is Category.E2E]
    assert f"ten groups, {len(groups)} scenarios" in said("testing.md")


@pytest.mark.parametrize("page", ["README.md", *(path.name for path in sorted(DOCS.glob("*.md")))])
def test_no_page_installs_narthex_from_a_registry(page: str) -> None:
    """It is in none: `pip install .`, or an extra beside an installed narthex."""
    path = DOCS / page if page != "README.md" else DOCS.parent / page
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"pip install (?:-U |--upgrade )?narthex\b", text)
