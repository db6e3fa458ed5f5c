"""The newest refusals: what an entry shows, what it never shows, and its bounds."""

from __future__ import annotations

import msgspec

from narthex.app.fleet.refusals import PER_SNAPSHOT, RecentRefusals
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal


def test_an_entry_names_reason_remedy_and_class_of_the_address_and_no_address() -> None:
    """What an operator needs to find the record in the log."""
    recent = RecentRefusals("node-1", lambda: 12.5)
    refusal = Refusal(code="token_expired", log_detail="exp was 5 min ago")
    ann = Identity(subject="ann", tenant="acme")
    recent.add(refusal, ("authorization",), user=ann, client="203.0.113.7", traffic="user", trace_id="t" * 32)
    (found,), omitted = recent.take()
    assert (found.code, found.address, found.trace_id, omitted) == ("token_expired", "private", "t" * 32, 0)
    assert found.remedy
    assert (found.carriers, found.user, found.tenant) == (["authorization"], "ann", "acme")
    text = msgspec.json.encode(found).decode()
    assert "203.0.113.7" not in text
    assert "5 min ago" not in text
    assert recent.take() == ([], 0)


def test_a_burst_is_bounded_and_the_rest_is_counted() -> None:
    """The newest are listed; health's own attempts are none."""
    recent = RecentRefusals("node-1")
    for number in range(PER_SNAPSHOT + 5):
        trace_id = str(number)
        recent.add(Refusal(code="auth_required"), (), user=None, client="", traffic="user", trace_id=trace_id)
    recent.add(Refusal(code="auth_required"), (), user=None, client="", traffic="probe", trace_id="probe")
    found, omitted = recent.take()
    assert [entry.trace_id for entry in found] == [str(number) for number in range(5, PER_SNAPSHOT + 5)]
    assert omitted == 5
