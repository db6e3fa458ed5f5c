"""An answer that is available at once or must be awaited, so that a hot path costs no task when it need not wait."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Later: TypeAlias = T | Awaitable[T]
"""The answer, or an awaitable of it, which the caller awaits once."""
Deferred: TypeAlias = T | Coroutine[Any, Any, T]
"""The answer, or a coroutine of it, which the caller awaits once or closes."""


async def settled(answer: Later[T]) -> T:
    """The answer, awaited if necessary."""
    return await answer if isinstance(answer, Awaitable) else answer
