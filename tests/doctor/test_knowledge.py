"""The knowledge base is whole, its page is current, and everything can be explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import narthex.doctor.diagnosis
from narthex.doctor.diagnosis.findings import found
from narthex.doctor.handbook import explain, page
from narthex.doctor.knowledge import refusal_whys, signatures
from narthex.domain.refusals import TABLE
from narthex.errors import ClientError

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
RULES = Path(narthex.doctor.diagnosis.__file__).parent


def test_all_thirty_six_signatures_are_there() -> None:
    """Each number of the list, with a cause, a fix and a way to confirm it."""
    entries = signatures().values()
    assert {entry.number for entry in entries} >= set(range(1, 37))
    assert all(entry.whys and entry.fix and entry.confirm and entry.seen for entry in entries)


def test_every_signature_has_a_rule_and_every_rule_a_signature() -> None:
    """A code that no rule can give is dead; one that no entry explains is a bug."""
    source = "".join(file.read_text() for file in RULES.glob("*.py"))
    assert [code for code in signatures() if not re.search(rf"[\"']{code}[\"']", source)] == []
    for code in re.findall(r'found\(\s*"([a-z0-9_]+)"', source):
        assert code in signatures()


def test_a_finding_is_one_line_even_with_values_missing() -> None:
    """No `{placeholder}` is ever printed."""
    for code in signatures():
        line = found(code).line
        assert "{" not in line
        assert "\n" not in line


def test_every_refusal_of_the_gateway_is_explained() -> None:
    """Each code of the table."""
    assert list(refusal_whys()) == list(TABLE)
    for code in (*TABLE, *signatures()):
        assert "why?" in explain(code)


def test_the_page_is_current() -> None:
    """`python -m narthex doctor --explain all > docs/troubleshooting.md`."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_numbers_are_explained_and_nonsense_is_not() -> None:
    """By signature number, close code or status; a typing mistake gets a hint."""
    assert "token_expired" in explain("3500")
    assert "idle_limit" in explain("33")
    with pytest.raises(ClientError, match="bad_accept"):
        explain("bad_acept")
