"""The errors that several parts of the gateway answer about threads, each worded once."""

from __future__ import annotations

from narthex.errors import ClientError


def thread_not_found() -> ClientError:
    """The thread does not exist, was deleted, or the user is no member: the answer is the same for all three."""
    return ClientError(
        "thread_not_found", "No such thread is visible to you.", "Use thread.list.", number=404
    )


def threads_limit(limit: int) -> ClientError:
    """The user owns as many threads as their plan allows."""
    return ClientError(
        "threads_limit",
        f"The plan allows a user to own {limit} threads.",
        "Delete threads with thread.delete, or upgrade the plan.",
        number=429,
    )


def storable(text: str) -> str:
    """A message's text as every store keeps it: PostgreSQL takes no NUL, and a repeat must find the same text."""
    return text.replace("\0", "\ufffd")
