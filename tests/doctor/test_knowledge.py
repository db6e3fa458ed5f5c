"""The knowledge base is whole, its page is current, and everything can be explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import narthex.doctor.diagnosis
from narthex.doctor.diagnosis.findings import found
from narthex.doctor.handbook import explain, related_codes
from narthex.doctor.knowledge import numbers, refusal_whys, signatures
from narthex.domain.refusals import TABLE
from narthex.errors import ClientError
from narthex.protocol import codes

RULES = Path(narthex.doctor.diagnosis.__file__).parent


def test_all_thirty_six_signatures_are_there() -> None:
    """Each number of the list, with a cause, a fix and a way to confirm it."""
    entries = signatures().values()
    assert {entry.number for entry in entries} >= set(range(1, 37))
    assert all(entry.whys and entry.fix and entry.confirm and entry.seen for entry in entries)


def test_every_signature_has_a_rule_and_every_rule_a_signature() -> None:
    """A code without a rule is dead; one without an entry is a bug."""
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


def test_every_number_that_the_gateway_shows_has_a_page() -> None:
    """Close codes and statuses of refusals, disconnects of the protocol, and the ones that browsers invent."""
    own = {number for row in TABLE.values() for number in (row.close, row.http) if number is not None}
    own |= {value.code for value in vars(codes).values() if isinstance(value, codes.Disconnect)}
    assert sorted(own - set(numbers())) == []
    registered = {*range(1000, 1016), *range(3500, 3510)} - {1004}
    assert registered <= set(numbers())
    for number in (101, 200, 301, 302, 307, 308, 400, 401, 403, 404, 405, 426, 429, 431, 500, 502, 503, 504):
        assert number in numbers()


def test_a_number_leads_to_what_tells_its_causes_apart() -> None:
    """Each page has a cause and a fix, and its references exist."""
    for entry in numbers().values():
        assert entry.whys
        assert entry.fix
        assert set(entry.see) <= {*signatures(), *TABLE}
        text = explain(str(entry.number))
        assert "why?" in text
        assert all(code in text for code in related_codes(entry))
    assert "browsers hide status and body" in explain("1006")
    assert "bad_gateway" in explain("502")
    assert "overloaded" in explain("503")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("4711", "application defines; see its documentation. Centrifuge SDKs do not reconnect"),
        ("4123", "SDKs reconnect"),
        ("3999", "library or framework"),
        ("2000", "reserved"),
        ("418", "refuses the request"),
        ("599", "failed"),
    ],
)
def test_a_number_without_a_page_is_explained_by_its_range(number: str, says: str) -> None:
    """Every number that a client shows gets an explanation."""
    assert says in explain(number)


def test_what_no_handshake_shows_is_no_number() -> None:
    """Neither a status nor a close code."""
    for number in ("99", "600", "999", "5000"):
        with pytest.raises(ClientError, match="No handshake returns"):
            explain(number)


def test_numbers_are_explained_and_nonsense_is_not() -> None:
    """By signature number, close code or status; a typing mistake gets a hint."""
    assert "token_expired" in explain("3500")
    assert "idle_limit" in explain("33")
    with pytest.raises(ClientError, match="bad_accept"):
        explain("bad_acept")
