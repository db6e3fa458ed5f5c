"""A process that publishes until it is killed and prints which publications were acknowledged.

Usage: python -m tests.contracts.publisher SPEC FIRST-NUMBER. Prints `channel offset epoch number` a line,
flushed per line, only after `publish` returned.
"""

from __future__ import annotations

import asyncio
import sys

from tests.contracts.recorder import Recorder
from tests.contracts.rigs import broker_from

CHANNELS = 4
TASKS = 16


async def main(spec: str, start: int) -> None:
    broker = broker_from(spec)
    await broker.start(Recorder(), f"publisher-{id(broker)}")

    async def publish(task: int) -> None:
        channel = f"default/thread:kill{task % CHANNELS}"
        number = start + task
        while True:
            placed = await broker.publish(channel, str(number).encode(), key=f"k{number}")
            sys.stdout.write(f"{channel} {placed.offset} {placed.epoch} {number}\n")
            sys.stdout.flush()
            number += TASKS

    await asyncio.gather(*(publish(task) for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
