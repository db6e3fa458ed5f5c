"""Whether a channel moves: what a node can tell of runs that another one executes. Pure: `now` is an argument.

Not here: runs of this node, which the engine knows. Rules: it costs nothing while nobody asks; who asks for the first
time is told "maybe" and asks again a step later, when it shows whether anything was published meanwhile.
"""

from __future__ import annotations

from typing import Final, NamedTuple

STEPS_KEPT: Final = 4  # what was looked at longer ago says nothing
# One a channel; they are asked about when sockets are rotated, a few a second
MAX_OBSERVATIONS: Final = 10_000


class _Observation(NamedTuple):
    at: float
    end: int | None


class ChannelActivity:
    """Ends of channels as they were seen. `step_s`: after which whoever was told "maybe" asks again."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._looks: dict[str, _Observation] = {}  # the oldest first

    def may_be_active(self, key: str, end: int | None, now: float) -> bool:
        """Whether something was published to a channel since the last look, or may have been.

        Args:
            key: the channel's.
            end: offset of its last publication, None: not known.
            now: seconds of any clock that never goes back.
        """
        look = self._looks.get(key)
        if look is not None and now - look.at <= STEPS_KEPT * self._step_s:
            if look.end == end:
                return now - look.at < 0.9 * self._step_s
            del self._looks[key]
        else:
            self._looks.pop(key, None)
        self._looks[key] = _Observation(now, end)
        self._forget(now)
        return True

    def _forget(self, now: float) -> None:
        while len(self._looks) > 1:
            key, look = next(iter(self._looks.items()))
            if len(self._looks) <= MAX_OBSERVATIONS and now - look.at <= STEPS_KEPT * self._step_s:
                break
            del self._looks[key]
