"""A slow client's backlog: bounded, in order, and byte-identical text in the end."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from narthex.app.backlog import Backlog, BacklogLimits
from narthex.app.hub.channel import Channel
from narthex.app.hub.delivery import Delivery
from narthex.domain.digest import digest_of
from narthex.domain.events import run_finished, run_started, success, text_content, text_end, text_start
from narthex.domain.limits import Limits
from narthex.ports.broker import Publication
from narthex.protocol.framing import Prepared
from narthex.protocol.replies import encode_json


def delivery(channel: Channel, offset: int, event: dict[str, Any]) -> Delivery:
    """An event as the hub delivers it."""
    data = encode_json(event)
    return Delivery(channel.encoder.publication(data, offset), Publication(offset, data))


def sent(backlog: Backlog) -> list[dict[str, Any]]:
    """The publications that the client gets in the end, in order."""
    return [json.loads(item.prepared.payload)["push"]["pub"] for _, item in backlog.take()]


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30))
def test_merged_deltas_prove_the_same_run(deltas: list[str]) -> None:
    """Fewer publications, the same text, the same digest, offsets ascending to the same end."""
    channel = Channel("t/thread:x", "thread:x")
    body = [
        run_started("x", "r"),
        text_start("m"),
        *(text_content("m", delta) for delta in deltas if delta),
        text_end("m"),
    ]
    events = [event | {"threadId": "x", "runId": "r", "seq": seq} for seq, event in enumerate(body, 1)]
    last = run_finished("x", "r", success()) | {"seq": len(events) + 1, "count": len(events) + 1}
    events.append(last)
    backlog = Backlog(0.0)
    for offset, event in enumerate(events, 1):
        backlog.add(channel, [delivery(channel, offset, event)])
    publications = sent(backlog)
    received = [publication["data"] for publication in publications]
    assert digest_of(received) == digest_of(events)
    assert len(received) <= 5
    assert [p["offset"] for p in publications] == sorted(p["offset"] for p in publications)
    assert publications[-1]["offset"] == len(events)
    assert backlog.size == 0


def test_two_channels_keep_their_own_order_and_one_can_be_forgotten() -> None:
    """Deltas of one thread never merge into another's."""
    one, two = Channel("t/thread:1", "thread:1"), Channel("t/thread:2", "thread:2")
    backlog = Backlog(0.0)
    for offset in range(1, 4):
        for channel, run in ((one, "r1"), (two, "r2")):
            event = text_content(f"m-{run}", str(offset)) | {
                "threadId": channel.name,
                "runId": run,
                "seq": offset,
            }
            backlog.add(channel, [delivery(channel, offset, event)])
    backlog.forget(one)
    assert [(p["data"]["delta"], p["offset"]) for p in sent(backlog)] == [("123", 3)]


def test_pushes_without_history_are_kept_as_they_are() -> None:
    """Join, leave and typing have no publication to merge."""
    channel = Channel("t/thread:x", "thread:x")
    backlog = Backlog(0.0)
    backlog.add(channel, [Delivery(Prepared(b'{"push":{"channel":"thread:x","pub":{"data":1}}}'), None)] * 2)
    assert backlog.size > 0
    assert len(sent(backlog)) == 2


def test_what_operators_publish_is_kept_whatever_it_is() -> None:
    """A channel may contain any JSON value; only deltas merge."""
    channel = Channel("t/thread:x", "thread:x")
    backlog = Backlog(0.0)
    for offset, data in enumerate((b'"delta"', b'["delta"]', b'{"delta":1}', b'"delta"'), 1):
        kept = Delivery(channel.encoder.publication(data, offset), Publication(offset, data))
        backlog.add(channel, [kept])
    assert [publication["data"] for publication in sent(backlog)] == [
        "delta",
        ["delta"],
        {"delta": 1},
        "delta",
    ]


def test_the_bounds_are_those_that_are_advertised() -> None:
    """The values of `/ws/config` for a gateway with default settings."""
    limits = Limits()
    assert BacklogLimits() == BacklogLimits(limits.max_pending_bytes, limits.max_lag_s)
