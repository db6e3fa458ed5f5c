"""Guesses whether a run on another node is still active by watching its channel's offset. Pure: `now` is an argument.

Not here: runs of this node, which the engine knows. Rules: it costs nothing until it is asked; the first question
about a channel is answered "maybe"; a question one step later shows whether anything was published meanwhile.
"""

from __future__ import annotations

from typing import Final, NamedTuple

STEPS_KEPT: Final = 4  # older looks prove nothing
# One a channel; rotations of sockets ask, a few times a second
MAX_OBSERVATIONS: Final = 10_000


class _Observation(NamedTuple):
    at: float
    end: int | None


class ChannelActivity:
    """Ends of channels at the last looks. `step_s`: the time after which a caller that got "maybe" asks again."""

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
