"""A thread as Markdown that a person can read and keep."""

from __future__ import annotations

from datetime import UTC, datetime

from narthex.app.thread_view import ThreadView

_TITLES = {"user": "", "assistant": "", "reasoning": "thought", "tool": "tool"}


def as_markdown(view: ThreadView) -> str:
    """Title, members, then every message with its author and moment (UTC)."""
    thread = view.thread
    lines = [f"# {_line(thread.title)}", "", f"Members: {', '.join(m.user_id for m in view.members)}", ""]
    for message in view.messages:
        moment = datetime.fromtimestamp(message.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        kind = _TITLES.get(message.role, message.role)
        note = f" ({kind})" if kind else ""
        lines += [f"## {_line(message.author)}{note} · {moment}", "", message.content, ""]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())
