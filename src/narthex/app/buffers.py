"""The fill and the limit of bounded buffers, queues and tables, as readings for the metrics.

Not here: the buffers themselves, and which ones a gateway has (`wiring/gauges`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from narthex.ports.telemetry import Reading

Buffer = tuple[str, Callable[[], int], int]
"""A buffer's name, its fill, and its limit. The name of one that drops its oldest entry when it is full, to the harm of
no client, ends in `_table` or `_cache`: no alert watches those.
"""


def buffer_readings(buffers: Iterable[Buffer]) -> Iterable[Reading]:
    """Fill, limit, and the share of the limit that is used: of several processes the fullest one counts there."""
    for name, fill, limit in buffers:
        entries = fill()
        yield "buffer_fill", (name,), entries
        yield "buffer_limit", (name,), limit
        yield "buffer_used_ratio", (name,), entries / limit if limit else 0.0
