"""A message on its way to a channel's subscribers, and the messages of one tick: encoded once for all of them.

Not here: who gets them (`channel`), computing deltas (protocol/fossil). Rules for subscribers that take deltas: a delta
goes only to a subscriber whose last publication of the channel was the one before, and only where it is shorter; every
other publication is whole. A channel without such subscribers computes and keeps nothing for them.
"""

from __future__ import annotations

from narthex.app.publisher_info import without_info
from narthex.ports.broker import Publication
from narthex.protocol.broadcast import Broadcast, ChannelEncoder
from narthex.protocol.fossil import create_delta
from narthex.protocol.framing import Framing, Prepared


class DeltaForms:
    """A publication for subscribers that take deltas: each form is encoded when the first of them needs it.

    Args:
        encoder: of the channel.
        publication: the publication; with offset 0, one that is in no history.
        base: the data of the channel's publication before it; None: unknown.
    """

    __slots__ = ("_delta", "_encoder", "_publication", "_whole", "base", "data")

    def __init__(self, encoder: ChannelEncoder, publication: Publication, base: bytes | None) -> None:
        self._encoder = encoder
        self._publication = publication
        self._whole: Broadcast | None = None
        self._delta: Broadcast | None = None
        self.base = base
        self.data = publication.data

    def after(self, got: bytes | None) -> Broadcast:
        """The push for a subscriber whose last publication of the channel had the data `got`."""
        base = self.base
        if got is None or base is None or (got is not base and got != base):
            return self.whole()
        if self._delta is None:
            delta = create_delta(base, self.data)
            self._delta = self.whole() if delta is None else self._encoded(delta, delta=True)
        return self._delta

    def whole(self) -> Broadcast:
        """The push with all data."""
        if self._whole is None:
            self._whole = self._encoded(self.data, delta=False)
        return self._whole

    def _encoded(self, data: bytes, *, delta: bool) -> Broadcast:
        publication = self._publication
        return self._encoder.delta_publication(
            data, publication.offset, *without_info(publication.tags), delta=delta
        )


class Delivery:
    """A message on its way out, encoded once.

    Attributes:
        prepared: for subscribers that take no deltas.
        publication: None for a message that is in no history.
        epoch: of the publication's log, where the channel's own is not known yet; else empty.
        forms: for subscribers that take deltas, where the channel has any; None for pushes that are no publications.
    """

    __slots__ = ("epoch", "forms", "prepared", "publication")

    def __init__(self, prepared: Prepared, publication: Publication | None, epoch: str = "") -> None:
        self.prepared = prepared
        self.publication = publication
        self.epoch = epoch
        self.forms: DeltaForms | None = None

    def after(self, got: bytes | None) -> tuple[Prepared, bytes | None]:
        """The push for a subscriber that takes deltas and last got `got`, and what it has got with it."""
        forms = self.forms
        return (self.prepared, got) if forms is None else (forms.after(got), forms.data)


class ChannelBatch:
    """The messages of one tick to one channel."""

    __slots__ = ("_framed", "_with_deltas", "items")

    def __init__(self) -> None:
        self.items: list[Delivery] = []
        self._framed: dict[Framing, bytes] = {}
        self._with_deltas: dict[tuple[Framing, bool], tuple[bytes, bytes | None]] | None = None

    def framed(self, framing: Framing) -> bytes:
        """All messages framed and joined; computed once per framing. Seal the batch before the first call."""
        data = self._framed.get(framing)
        if data is None:
            data = b"".join([item.prepared.framed(framing) for item in self.items])
            self._framed[framing] = data
        return data

    def framed_after(self, framing: Framing, got: bytes | None) -> tuple[bytes, bytes | None]:
        """As `framed`, for a subscriber that takes deltas and last got `got`; and what it has got then."""
        if self._with_deltas is None:
            self._with_deltas = {}
        first = next((item.forms for item in self.items if item.forms is not None), None)
        if first is None:
            return self.framed(framing), got
        key = framing, got is not None and got == first.base
        found = self._with_deltas.get(key)
        if found is None:
            parts: list[bytes] = []
            for item in self.items:
                prepared, got = item.after(got)
                parts.append(prepared.framed(framing))
            found = self._with_deltas[key] = b"".join(parts), got
        return found
