"""Holds sockets open to find the time limits of the proxies in between.

Not here: naming the proxy (`diagnosis.holds`). Three sockets, opened one after the other: two only answer, one pings. A
limit of time ends each at its own age; a restart ends all at one moment. When only the quiet ones end, the limit is an
idle time-out; when all do, it is a maximum life.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec

from narthex.doctor.exchanging import Line, UpgradeFailed, open_socket
from narthex.doctor.live import LiveSocket
from narthex.doctor.observations import Attempt, Hold
from narthex.protocol.client import ClientSession, MalformedMessage

APART_S: Final = 5.0  # between two sockets: far more than the delay of a proxy's timer


async def hold(
    line: Line,
    address: str,
    attempt: Attempt,
    *,
    seconds: float,
    connect: bool,
    tick: Callable[[float], None],
) -> list[Hold]:
    """Hold each for `seconds`.

    Args:
        line: the endpoint and the credential.
        address: textual address.
        attempt: the handshake of each.
        seconds: how long at most.
        connect: whether to send Centrifuge's `connect` first and answer its pings.
        tick: called with the seconds held, about once a second.
    """
    # Forty pings within the time that is looked at, at least one every 10 s: more often than any known idle limit.
    # At most ten a second, because servers bound control frames (ours at 20 a second).
    every_s = max(0.1, min(10.0, seconds / 40))
    apart_s = min(APART_S, seconds / 8)
    plan = ((0.0, tick), (0.0, None), (every_s, None))

    async def one(number: int, ping_every_s: float, told: Callable[[float], None] | None) -> Hold:
        await asyncio.sleep(number * apart_s)
        began_s = time.perf_counter() - first
        held = await _hold_one(line, address, attempt, seconds, ping_every_s, connect, told)
        return msgspec.structs.replace(held, began_s=round(began_s, 2))

    first = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number, *how)) for number, how in enumerate(plan)]
    return [task.result() for task in tasks]


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
    except UpgradeFailed:
        return Hold(pings=ping_every_s > 0, lived_s=0.0, ended="not_opened")
    session = ClientSession() if connect else None
    if session is not None:
        session.send("connect", {})
    try:
        lived_s = await _watch(socket, session, seconds, ping_every_s, tick)
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
    socket: LiveSocket,
    session: ClientSession | None,
    seconds: float,
    ping_every_s: float,
    tick: Callable[[float], None] | None,
) -> float:
    deadline = socket.opened + seconds
    next_ping = socket.opened + ping_every_s
    while (now := time.perf_counter()) < deadline:
        if tick is not None:
            tick(now - socket.opened)
        if ping_every_s and now >= next_ping:
            socket.ping()
            next_ping = now + ping_every_s
        for payload in session.data_to_send() if session is not None else ():
            socket.send(payload)
        wait_s = min(deadline - now, 1.0, (next_ping - now) if ping_every_s else 1.0)
        text = await socket.receive(max(0.0, wait_s))
        if text is not None and session is not None:
            with contextlib.suppress(MalformedMessage):
                session.receive(text)
        if socket.ended:
            return time.perf_counter() - socket.opened
    return seconds
