"""Approvals in SQL: the part of the Runs port about interrupts. Runs themselves are `runs.py`'s.

Rules: an approval is answered once; its answer and the run that carries it on are one transaction.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Engine, Operation, Shape, marks, padded
from narthex.adapters.stores.sql.threads import MAX_LIMIT
from narthex.ports.runs import Interrupt, Run

_INTERRUPT: Final = Shape(Interrupt)
_RUN: Final = Shape(Run)


class SqlInterrupts:
    """The approval methods of the Runs port over an engine."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect

    async def open_interrupt(self, interrupt: Interrupt) -> None:
        """See the port; the same id again changes nothing."""
        await self._engine.write(_open(self._dialect, interrupt))

    async def interrupt(self, tenant: str, interrupt_id: str) -> Interrupt | None:
        """See the port."""
        return await self._engine.read(_get(tenant, interrupt_id))

    async def open_interrupts(self, tenant: str, thread_id: str) -> list[Interrupt]:
        """See the port; oldest first."""
        return await self._engine.read(_list_open(self._dialect, tenant, thread_id))

    async def interrupts_of(self, tenant: str, thread_id: str, run_ids: Collection[str]) -> list[Interrupt]:
        """See the port."""
        return await self._engine.read(_of_runs(tenant, thread_id, run_ids)) if run_ids else []

    async def answer_interrupt(
        self, tenant: str, interrupt_id: str, *, by: str, payload: str, resume: Run
    ) -> Interrupt | None:
        """See the port."""
        return await self._engine.write(_answer(self._dialect, tenant, interrupt_id, by, payload, resume))


def _open(dialect: Dialect, interrupt: Interrupt) -> Operation[None]:
    rows = yield f"SELECT {dialect.clock}", ()
    expires_at = rows[0][0] + (interrupt.expires_at - interrupt.created_at)
    yield (
        (
            f"INSERT INTO interrupts ({_INTERRUPT.columns}) VALUES ({_INTERRUPT.placeholders})"
            " ON CONFLICT (tenant, interrupt_id) DO NOTHING"
        ),
        _INTERRUPT.values(msgspec.structs.replace(interrupt, expires_at=expires_at)),
    )


def _get(tenant: str, interrupt_id: str) -> Operation[Interrupt | None]:
    rows = yield (
        f"SELECT {_INTERRUPT.columns} FROM interrupts WHERE tenant = ? AND interrupt_id = ?",
        (tenant, interrupt_id),
    )
    return _INTERRUPT.first(rows)


def _list_open(dialect: Dialect, tenant: str, thread_id: str) -> Operation[list[Interrupt]]:
    rows = yield (
        (
            f"SELECT {_INTERRUPT.columns} FROM interrupts"
            f" WHERE thread_id = ? AND tenant = ? AND resume_run_id = '' AND expires_at > {dialect.clock}"
            " ORDER BY created_at, interrupt_id LIMIT ?"
        ),
        (thread_id, tenant, MAX_LIMIT),
    )
    return _INTERRUPT.read_all(rows)


def _of_runs(tenant: str, thread_id: str, run_ids: Collection[str]) -> Operation[list[Interrupt]]:
    names = padded(run_ids)
    rows = yield (
        (
            f"SELECT {_INTERRUPT.columns} FROM interrupts WHERE thread_id = ? AND tenant = ?"
            f" AND run_id IN ({marks(len(names))}) ORDER BY created_at, interrupt_id"
        ),
        (thread_id, tenant, *names),
    )
    return _INTERRUPT.read_all(rows)


def _answer(
    dialect: Dialect, tenant: str, interrupt_id: str, by: str, payload: str, resume: Run
) -> Operation[Interrupt | None]:
    # As a run's start: held, so that the thread is not deleted beneath the run.
    yield (
        f"SELECT 1 FROM threads WHERE thread_id = ? AND tenant = ?{dialect.hold}",
        (resume.thread_id, tenant),
    )
    rows = yield (
        (
            "UPDATE interrupts SET answered_by = ?, payload = ?, resume_run_id = ?"
            " WHERE tenant = ? AND interrupt_id = ? AND resume_run_id = ''"
            f" AND expires_at > {dialect.clock}"
            f" RETURNING {_INTERRUPT.columns}"
        ),
        (by, payload, resume.run_id, tenant, interrupt_id),
    )
    if not rows:
        before = yield from _get(tenant, interrupt_id)
        return before if before is not None and before.resume_run_id else None
    number = yield dialect.numbered, ()
    yield (
        (
            f"INSERT INTO runs ({_RUN.columns}, place, number) VALUES ({_RUN.placeholders},"
            " (SELECT coalesce(max(place), 0) FROM runs WHERE thread_id = ?), ?)"
        ),
        (*_RUN.values(resume), resume.thread_id, number[0][0]),
    )
    return _INTERRUPT.read(rows[0])
