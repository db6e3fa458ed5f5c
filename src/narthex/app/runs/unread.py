"""At a run's end: the texts that users sent to its agent and that it never took become messages with runs of their own.

Not here: sending texts to an agent (`steering`, `requests`), which of them it took (`domain/steered_texts.py`). Rules:
the terminal event is in the log, and the store does not count the run as over yet: so a node that dies here repeats
this, and every step is idempotent. A text that was sent to the run itself (`run.steer`) ends with a run that a user
cancelled; one that is a message of the thread gets its answer in any case, as a message that waits in the queue does;
unless a run of the thread answers it already, or its answer was cancelled like those of the queue (`queue_unread`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import structlog

from narthex.app.runs.run_log_state import RunLogState
from narthex.app.runs.services import RunServices, identity_json, identity_of
from narthex.domain.identity import Identity
from narthex.domain.runs import RunState
from narthex.domain.steered_texts import SteeredText
from narthex.errors import ClientError
from narthex.ports.runs import Run

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

ROOM: Final = 10_000  # in the thread's queue: these messages were accepted, so its limit does not refuse them
NEWEST: Final = 64  # runs of a thread among which that of a message is looked for: more than its queue holds


async def answer_unread(
    services: RunServices, run: Run, log_state: RunLogState, senders: Mapping[str, Identity]
) -> None:
    """Begin the runs. `senders`: the users who sent texts, as far as this node knows their rights; of another one the
    run's node has died, and the run for their text has no permissions.

    Raises:
        DependencyError: not done; repeat.
    """
    cancelled = log_state.applied_to(run).state == RunState.CANCELLED
    for text in await _unanswered(services, run, log_state):
        if cancelled and not text.message_id:
            continue
        if (answering := await _answer(services, run, text, senders)) is not None:
            log.info("steered_text_unread", run_id=run.run_id, answered_by=answering.run_id)


async def queue_unread(
    services: RunServices, run: Run, log_state: RunLogState, senders: Mapping[str, Identity]
) -> list[Run]:
    """Queue the runs for the messages that the agent of a run at work has not taken: now instead of at its end, so that
    they can be cancelled with the thread's queue. Arguments and faults as of `answer_unread`.
    """
    messages = [text for text in await _unanswered(services, run, log_state) if text.message_id]
    queued = [await _answer(services, run, text, senders) for text in messages]
    return [one for one in queued if one is not None]


async def _unanswered(services: RunServices, run: Run, log_state: RunLogState) -> list[SteeredText]:
    """The unread texts without the messages that have a run: of an earlier try, or because this run accepted the
    message so late that its sender's node had already queued one for it.
    """
    unread, answered = log_state.steered.unread, set[str]()
    if any(text.message_id for text in unread):
        newest = await services.runs.list_in_thread(run.tenant, run.thread_id, NEWEST)
        answered = {one.message_id for one in newest if one.message_id}
    return [text for text in unread if text.message_id not in answered]


async def _answer(
    services: RunServices, run: Run, text: SteeredText, senders: Mapping[str, Identity]
) -> Run | None:
    """The queued run that answers a text; None where it cannot have one."""
    sender = senders.get(text.by) or (
        identity_of(run) if text.by == run.user_id else Identity(subject=text.by, tenant=run.tenant)
    )
    name = derived_run_id(run.run_id, text.steer_id)
    message_id = text.message_id or text.steer_id
    try:
        said_at, _ = await services.say(sender, run.thread_id, message_id, text.text)
        answering = Run(
            run_id=name,
            thread_id=run.thread_id,
            tenant=run.tenant,
            user_id=sender.subject,
            agent=run.agent,
            state=RunState.QUEUED,
            client_message_id=f"steered:{name}",
            message_id=message_id,
            created_at=services.now(),
            concurrent_limit=services.concurrent_runs(sender),
            identity=identity_json(sender),
            traffic=str(sender.identity_class),
            restartable=run.restartable,
            start_offset=said_at.offset,
            start_epoch=said_at.epoch,
        )
        return (await services.runs.start(answering, queue_limit=ROOM))[0]
    except ClientError as fault:  # the thread was deleted meanwhile
        log.warning("steered_text_not_answered", run_id=run.run_id, code=fault.code)
        return None


def derived_run_id(run_id: str, steer_id: str) -> str:
    """The id of the run that answers a text which the agent of another run left unread."""
    return hashlib.sha256(f"unread\x00{run_id}\x00{steer_id}".encode()).hexdigest()[:32]
