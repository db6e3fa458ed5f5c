"""The errors that several parts of the gateway answer about threads, each worded once."""

from __future__ import annotations

from narthex.errors import ClientError


def thread_not_found() -> ClientError:
    """The thread does not exist, was deleted, or the user is no member: the answer is the same for all three."""
    return ClientError("thread_not_found", "There is no such thread for you.", "Use thread.list.", number=404)


def threads_limit(limit: int) -> ClientError:
    """The user owns as many threads as their plan allows."""
    return ClientError(
        "threads_limit",
        f"The plan allows {limit} threads of one's own.",
        "Delete some with thread.delete, or upgrade.",
        number=429,
    )
