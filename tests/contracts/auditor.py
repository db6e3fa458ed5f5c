"""A process that writes audit records until it is killed and prints which writes returned.

Usage: python -m tests.contracts.auditor SPEC FIRST-NUMBER. Prints one subject a line, flushed per line.
"""

from __future__ import annotations

import asyncio
import sys

from narthex.ports.store import AuditRecord
from tests.contracts.rigs import store_from

TASKS = 8


async def main(spec: str, start: int) -> None:
    store = store_from(spec)
    await store.start()

    async def write(task: int) -> None:
        number = start + task
        while True:
            record = AuditRecord(at=1.0, kind="kill", tenant="a", subject=f"s{number}", detail="{}")
            await store.records.audit(record)
            sys.stdout.write(f"{record.subject}\n")
            sys.stdout.flush()
            number += TASKS

    await asyncio.gather(*(write(task) for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
