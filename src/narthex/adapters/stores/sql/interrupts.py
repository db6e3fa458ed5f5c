"""Approvals in SQL: the part of the Runs port about interrupts.

Not here: the runs themselves (`runs.py`). Rules: an approval is answered once; its answer and the run that continues
are one transaction.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from narthex.adapters.stores.sql.operation import (
    Adapter,
    Operation,
    Shape,
    Statement,
    found,
    marks,
    padded,
    reads,
    writes,
)
from narthex.adapters.stores.sql.threads import MAX_LIMIT
from narthex.ports.runs import Interrupt, Run

_INTERRUPT: Final = Shape(Interrupt)
_RUN: Final = Shape(Run)


class SqlInterrupts(Adapter):
    """The approval methods of the Runs port over an engine."""

    @writes
    def open_interrupt(self, interrupt: Interrupt) -> Operation[None]:
        """See the port; the same id again changes nothing."""
        rows = yield f"SELECT {self._dialect.clock}", ()
        expires_at = rows[0][0] + (interrupt.expires_at - interrupt.created_at)
        yield (
            f"{_INTERRUPT.into('interrupts')} ON CONFLICT (tenant, interrupt_id) DO NOTHING",
            _INTERRUPT.values(msgspec.structs.replace(interrupt, expires_at=expires_at)),
        )

    @reads
    def interrupt(self, tenant: str, interrupt_id: str) -> Operation[Interrupt | None]:
        """See the port."""
        return _get(tenant, interrupt_id)

    @reads
    def open_interrupts(self, tenant: str, thread_id: str) -> Operation[list[Interrupt]]:
        """See the port; oldest first."""
        return _INTERRUPT.many(
            f"""FROM interrupts
            WHERE thread_id = ? AND tenant = ? AND resume_run_id = '' AND expires_at > {self._dialect.clock}
            ORDER BY created_at, interrupt_id LIMIT ?""",
            *(thread_id, tenant, MAX_LIMIT),
        )

    async def interrupts_of(self, tenant: str, thread_id: str, run_ids: Collection[str]) -> list[Interrupt]:
        """See the port."""
        return await self._engine.read(_of_runs(tenant, thread_id, run_ids)) if run_ids else []

    @writes
    def answer_interrupt(
        self,
        tenant: str,
        interrupt_id: str,
        *,
        by: str,
        payload: str,
        resume: Run,
        status: str = "resolved",
        run_input: str = "",
    ) -> Operation[Interrupt | None]:
        """See the port."""
        # Answers to questions of one run come one after the other: the last one inserts the run that continues.
        yield from self._dialect.locked(f"answers {resume.parent_run_id}")
        # Held as at a run's start, so that the thread is not deleted while the run begins.
        yield from self._dialect.held(tenant, resume.thread_id)
        of_run = "FROM interrupts WHERE tenant = ? AND thread_id = ? AND run_id = ? AND"
        named = (tenant, resume.thread_id, resume.parent_run_id)
        earlier = yield f"SELECT max(resume_run_id) {of_run} resume_run_id <> ''", named
        resume = msgspec.structs.replace(resume, run_id=earlier[0][0] or resume.run_id)
        rows = yield (
            f"""UPDATE interrupts SET answered_by = ?, payload = ?, resume_run_id = ?, status = ?
            WHERE tenant = ? AND interrupt_id = ? AND resume_run_id = '' AND expires_at > {self._dialect.clock}
            RETURNING {_INTERRUPT.columns}""",
            (by, payload, resume.run_id, status, tenant, interrupt_id),
        )
        if not rows:
            before = yield from _get(tenant, interrupt_id)
            return before if before is not None and before.resume_run_id else None
        if (yield from found(f"SELECT 1 {of_run} resume_run_id = ''", *named)):
            return _INTERRUPT.read(rows[0])
        # Version 2 does not know of several questions: its first answer inserts the run.
        known = "ON CONFLICT (run_id) DO NOTHING" if earlier[0][0] else ""
        number = yield self._dialect.numbered, ()
        yield (
            f"""INSERT INTO runs ({_RUN.columns}, queue_place, number) VALUES ({_RUN.placeholders},
            (SELECT coalesce(max(queue_place), 0) FROM runs WHERE thread_id = ?), ?) {known}""",
            (*_RUN.values(resume), resume.thread_id, number[0][0]),
        )
        if run_input:
            yield insert_input(resume, run_input)
        return _INTERRUPT.read(rows[0])


def insert_input(run: Run, run_input: str) -> Statement:
    """Keep a run's input; once."""
    return (
        """INSERT INTO run_inputs (run_id, thread_id, tenant, input) VALUES (?, ?, ?, ?)
        ON CONFLICT (run_id) DO NOTHING""",
        (run.run_id, run.thread_id, run.tenant, run_input),
    )


def unbind(owner: str, tenant: str, interrupt_id: str) -> Statement:
    """The agent that asked waits there no more."""
    return (
        "UPDATE interrupts SET node = '' WHERE tenant = ? AND interrupt_id = ? AND node = ?",
        (tenant, interrupt_id, owner),
    )


def _get(tenant: str, interrupt_id: str) -> Operation[Interrupt | None]:
    return _INTERRUPT.one("FROM interrupts WHERE tenant = ? AND interrupt_id = ?", tenant, interrupt_id)


def _of_runs(tenant: str, thread_id: str, run_ids: Collection[str]) -> Operation[list[Interrupt]]:
    names = padded(run_ids)
    return _INTERRUPT.many(
        f"""FROM interrupts WHERE thread_id = ? AND tenant = ?
        AND run_id IN ({marks(len(names))}) ORDER BY created_at, interrupt_id""",
        *(thread_id, tenant, *names),
    )
