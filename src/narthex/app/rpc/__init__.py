"""RPC methods of DESIGN section 5: their params, their rights, their results."""

from __future__ import annotations

from narthex.app.rpc import basics, runs, threads
from narthex.app.rpc.methods import Method

__all__ = ["Method", "methods"]


def methods() -> dict[str, Method]:
    """The whole table by name."""
    return {**basics.METHODS, **threads.METHODS, **runs.METHODS}
