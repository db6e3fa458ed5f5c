"""A broker handler that records its calls and lets a test wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from narthex.ports.broker import Control, Member, Publication

WAIT_S = 15.0


class Recorder:
    """`seen` holds (channel, publication, epoch) in the order of the calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Publication, str]] = []
        self.presences: list[tuple[str, str, bool]] = []
        self.controls: list[Control] = []
        self.resyncs: list[list[str] | None] = []
        self._changed = asyncio.Event()

    def publication(self, channel: str, publication: Publication, epoch: str) -> None:
        self.seen.append((channel, publication, epoch))
        self._changed.set()

    def presence(self, channel: str, member: Member, joined: bool) -> None:
        self.presences.append((channel, member.client, joined))
        self._changed.set()

    def control(self, message: Control) -> None:
        self.controls.append(message)
        self._changed.set()

    def resync(self, channels: list[str] | None) -> None:
        self.resyncs.append(channels)
        self._changed.set()

    def of(self, channel: str) -> list[Publication]:
        """The recorded publications of one channel."""
        return [publication for name, publication, _ in self.seen if name == channel]

    async def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Wait for calls until `condition` holds; fails with the recorded calls when it does not hold in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise AssertionError(
                f"not told in {timeout_s} s; seen {len(self.seen)} publications, last {self.seen[-3:]}, "
                f"presence {self.presences[-5:]}, control {self.controls[-5:]}, resync {self.resyncs[-5:]}"
            ) from error
