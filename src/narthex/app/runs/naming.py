"""Renames a thread once its first run has ended, where the first message alone gave a poor title.

Rules: only a title that the gateway made itself is changed, so a user's title stays; it is a convenience, so a
store that is down costs the title and nothing else.
"""

from __future__ import annotations

import structlog

from narthex.app.runs.services import RunServices
from narthex.domain.titles import says_little, title_of
from narthex.errors import NarthexError
from narthex.ports.runs import Run

log = structlog.get_logger("narthex.runs")

_MESSAGES = 200  # of the thread: its first run has no more, or the title stays


async def name_thread(services: RunServices, run: Run, answer: str) -> None:
    """Give the run's thread a title from question and answer, if this is its first run."""
    try:
        thread = await services.threads.get(run.tenant, run.thread_id)
        if thread is None or not says_little(thread.title) or not answer:
            return
        if len(await services.runs.list_in_thread(run.tenant, run.thread_id, 2)) != 1:
            return
        messages = await services.threads.messages(run.tenant, run.thread_id, before=None, limit=_MESSAGES)
        asked = next((message.content for message in messages if message.message_id == run.message_id), "")
        title = title_of(asked, answer)
        if not asked or thread.title != title_of(asked) or title == thread.title:
            return
        await services.threads.rename(run.tenant, run.thread_id, title, services.now())
        value = {"threadId": run.thread_id, "title": title}
        await services.notify_members(run.tenant, run.thread_id, "narthex.thread_renamed", value)
    except NarthexError as fault:
        log.info("thread_not_named", thread_id=run.thread_id, code=fault.code)
