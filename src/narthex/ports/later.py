"""An answer that is there at once or must be awaited, so that a hot path costs no task where nothing has to be waited
for. Not here: what is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Later: TypeAlias = T | Awaitable[T]
"""The answer, or an awaitable of it, which the caller awaits once."""
Deferred: TypeAlias = T | Coroutine[Any, Any, T]
"""The answer, or a coroutine of it, which the caller awaits once or closes."""


async def settled(answer: Later[T]) -> T:
    """The answer, as soon as it is there."""
    return await answer if isinstance(answer, Awaitable) else answer
