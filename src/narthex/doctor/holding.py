"""Holding sockets open to find the limits of whatever is in between.

Not here: naming the proxy (`diagnosis.holds`). Two sockets at once: one that only answers, and one that pings. When
the quiet one dies first, the limit is an idle time-out; when both die together, it is a maximum life.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from narthex.doctor.exchanging import Line
from narthex.doctor.live import LiveSocket, Refused, open_socket
from narthex.doctor.observations import Attempt, Hold


async def hold(
    line: Line,
    address: str,
    attempt: Attempt,
    *,
    seconds: float,
    connect: bool,
    tick: Callable[[float], None],
) -> list[Hold]:
    """Hold both for `seconds`.

    Args:
        line: where and with what.
        address: textual address.
        attempt: the handshake of both.
        seconds: how long at most.
        connect: whether to send Centrifuge's `connect` first and answer its pings.
        tick: told the seconds held, about once a second.
    """
    # Ten pings within the time that is looked at, at most one every 10 s: more often than any known idle limit.
    every_s = min(10.0, seconds / 10)
    async with asyncio.TaskGroup() as group:
        quiet = group.create_task(_hold_one(line, address, attempt, seconds, 0.0, connect, tick))
        pinging = group.create_task(_hold_one(line, address, attempt, seconds, every_s, connect, None))
    return [quiet.result(), pinging.result()]


async def _hold_one(
    line: Line,
    address: str,
    attempt: Attempt,
    seconds: float,
    ping_every_s: float,
    connect: bool,
    tick: Callable[[float], None] | None,
) -> Hold:
    try:
        socket = await open_socket(line, address, attempt)
    except Refused:
        return Hold(pings=ping_every_s > 0, lived_s=0.0, ended="not_opened")
    if connect:
        socket.send('{"id":1,"connect":{}}')
    try:
        lived_s = await _watch(socket, seconds, ping_every_s, tick)
        return Hold(
            pings=ping_every_s > 0,
            lived_s=round(lived_s, 2),
            ended=socket.ended or "held",
            close=socket.close,
            ping_every_s=ping_every_s,
            heard_s=round(socket.heard - socket.opened, 2),
        )
    finally:
        await socket.leave()


async def _watch(
    socket: LiveSocket, seconds: float, ping_every_s: float, tick: Callable[[float], None] | None
) -> float:
    deadline = socket.opened + seconds
    next_ping = socket.opened + ping_every_s
    while (now := time.perf_counter()) < deadline:
        if tick is not None:
            tick(now - socket.opened)
        if ping_every_s and now >= next_ping:
            socket.ping()
            next_ping = now + ping_every_s
        wait_s = min(deadline - now, 1.0, (next_ping - now) if ping_every_s else 1.0)
        text = await socket.receive(max(0.0, wait_s))
        if text is not None and text.strip() == "{}":
            socket.send("{}")
        if socket.ended:
            return time.perf_counter() - socket.opened
    return seconds
