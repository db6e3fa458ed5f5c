"""The bytes of a model's stream on the wire, whole and as deltas: the table of docs/protocol.md."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from narthex.app.hub.delivery import DeltaForms
from narthex.domain.events import text_content
from narthex.ports.broker import Publication
from narthex.protocol.broadcast import ChannelEncoder
from narthex.protocol.framing import Framing
from narthex.protocol.replies import encode_json

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
WORDS = [
    "It",
    "snows",
    "in",
    "Oslo",
    "today",
    "and",
    "the",
    "wind",
    "comes",
    "from",
    "the",
    "north",
    "so",
    "take",
    "a",
    "coat",
    "and",
    "mind",
    "the",
    "ice",
    "on",
    "the",
    "road",
    "before",
    "you",
    "leave",
    "the",
    "house",
    "in",
    "the",
    "morning",
    "because",
    "the",
    "trams",
    "are",
    "late",
    "and",
    "the",
    "buses",
    "are",
    "full",
]
FORMATS = {
    "JSON": Framing.WEBSOCKET,
    "deflated JSON": Framing.WEBSOCKET_DEFLATE,
    "protobuf": Framing.PROTOBUF_WEBSOCKET,
}


def measured() -> dict[tuple[str, str], int]:
    """Format and form → bytes of a message, frame and all, on average; the ids have their usual length."""
    seeded = random.Random(17)
    thread, run = (seeded.randbytes(16).hex() for _ in range(2))
    encoder = ChannelEncoder(f"thread:{thread}")
    total = dict.fromkeys(((name, form) for name in FORMATS for form in ("whole", "delta")), 0)
    count = 400
    before = b""
    for number in range(count + 1):
        event = text_content(f"{run}:1", f" {WORDS[number % len(WORDS)]}")
        data = encode_json(event | {"threadId": thread, "runId": run, "seq": number + 3})
        publication = Publication(offset=number + 7, data=data)
        if before:
            forms = DeltaForms(encoder, publication, before)
            for name, framing in FORMATS.items():
                whole = encoder.publication(data, publication.offset)
                total[name, "whole"] += len(whole.framed(framing))
                total[name, "delta"] += len(forms.after(before).framed(framing))
        before = data
    return {key: round(value / count) for key, value in total.items()}


def test_the_page_says_what_deltas_save() -> None:
    """Bytes of each form, computed by the code that sends them; those of deflate depend on zlib's version a little."""
    found = measured()
    page = PAGE.read_text(encoding="utf-8")
    for name, forms in {
        "JSON": (
            ("JSON", "whole"),
            ("JSON", "delta"),
            ("deflated JSON", "whole"),
            ("deflated JSON", "delta"),
        ),
        "protobuf": (("protobuf", "whole"), ("protobuf", "delta")),
    }.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} | "))
        said = [int(number) for number in re.findall(r"\| (\d+)", row)]
        assert said == pytest.approx([found[form] for form in forms], abs=3), name
        share = [int(number) for number in re.findall(r"−(\d+) %", row)]
        whole = found[name, "whole"]
        assert share == pytest.approx([100 - 100 * found[form] / whole for form in forms[1:3]], abs=1.5)
