"""The conclusions from held sockets: a limit is certain only if sockets of different ages ended at the same age."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from narthex.doctor.diagnosis.credentials import refused_token, skew_of
from narthex.doctor.diagnosis.findings import Finding
from narthex.doctor.diagnosis.holds import held
from narthex.doctor.diagnosis.view import View
from narthex.doctor.observations import Attempt, Close, Hold, HttpExchange, Observations, UserInput
from tests.doctor.clinic import examined
from tests.doctor.scripted import Asked as AskedHead
from tests.doctor.scripted import Wire, serving
from tests.timing import within


def view(*holds: Hold, exchanges: tuple[HttpExchange, ...] = (), **asked: Any) -> View:
    """An examination with these held sockets."""
    return View(
        Observations(
            url="ws://h/ws",
            endpoint="h:80",
            tls_asked=False,
            loopback=False,
            asked=UserInput(**asked),
            holds=holds,
            exchanges=exchanges,
        )
    )


def lived(*ages: float, apart: float = 5.0, ended: str = "reset", until: float = 600.0) -> list[Hold]:
    """Two quiet sockets and a pinging one, opened `apart` seconds apart."""
    return [
        Hold(
            pings=number == 2,
            lived_s=age,
            ended="held" if age >= until else ended,
            began_s=number * apart,
            ping_every_s=10.0 if number == 2 else 0.0,
        )
        for number, age in enumerate(ages)
    ]


def only(found: list[Finding]) -> tuple[str, str]:
    """Code and certainty of the one finding."""
    (finding,) = found
    return finding.code, finding.sure


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        (lived(37.0, 37.2, 36.9), ("life_limit", "certain")),
        (lived(37.0, 32.0, 27.1), ("cut_together", "likely")),
        (lived(9.0, 9.1, 9.0), ("life_limit", "possible")),
        (lived(60.0, 60.1, 600.0), ("idle_limit", "certain")),
        (lived(60.0, 55.0, 600.0), ("cut_together", "likely")),
        (lived(60.0, 600.0, 600.0), ("held_socket_lost", "possible")),
        (lived(600.0, 60.0, 600.0), ("held_socket_lost", "possible")),
        (lived(37.0, 37.0, 37.0, apart=0.0), ("life_limit", "likely")),
        (lived(60.0, 60.0, 600.0, apart=0.0), ("idle_limit", "likely")),
        (lived(60.0, 60.1, 120.0), ("idle_limit", "certain")),
    ],
)
def test_ages_and_moments_tell_a_limit_from_a_restart(holds: list[Hold], expected: tuple[str, str]) -> None:
    """Two sockets reset at 37 s once counted as a maximum lifetime; a restart looks the same."""
    assert only(held(view(*holds))) == expected


def test_sockets_that_live_say_nothing() -> None:
    """Nor do those that were never opened."""
    assert held(view(*lived(600.0, 600.0, 600.0))) == []
    assert held(view(Hold(pings=False, lived_s=0, ended="not_opened"))) == []


def test_a_close_frame_is_the_servers_own_word() -> None:
    """Whatever the ages: 1012 is a restart by its own code."""
    closed = [
        Hold(
            pings=n == 2,
            lived_s=9.0,
            ended="close",
            began_s=5.0 * n,
            close=Close(code=1012, reason="", after_ms=1),
        )
        for n in range(3)
    ]
    assert only(held(view(*closed)))[0] == "closed_while_held"


async def test_a_restart_is_no_maximum_life() -> None:
    """A server that resets all of its sockets at once, seen from outside."""
    opened: list[tuple[float, Wire]] = []

    async def answer(asked: AskedHead, wire: Wire) -> None:
        if not asked.upgrade:
            await wire.say(200, body="x")
            return
        await wire.accept(asked)
        opened.append((time.monotonic(), wire))
        await wire.talk()

    async def restart() -> None:
        """Once the three held sockets are open: all others live for less than the settle time."""
        while True:
            await asyncio.sleep(0.02)
            alive = [(at, wire) for at, wire in opened if not wire.writer.is_closing()]
            if len(alive) == 3 and time.monotonic() - max(at for at, _ in alive) > within(0.3):
                for _, wire in alive:
                    wire.reset()
                return

    async with serving(answer) as port, asyncio.TaskGroup() as group:
        task = group.create_task(restart())
        diagnosis, seen = await examined(f"ws://127.0.0.1:{port}/ws", hold_s=within(2.4))
        task.cancel()
    assert diagnosis.first_line.startswith("cut_together: "), (diagnosis.first_line, seen.holds)


def refusal(at: float, date: str, **headers: str) -> HttpExchange:
    """A 401 at a given time, with a Date."""
    return HttpExchange(
        attempt=Attempt(name="upgrade with the credential"), address="::1", end="response", status=401,
        headers={"date": date} | headers, at=at,
    )  # fmt: skip


def test_the_length_of_an_examination_is_no_clock_skew() -> None:
    """A refusal that came 65 s after the beginning has a Date that is 65 s later, too."""
    began = 1_800_000_000.0
    later = refusal(began + 65, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(began + 65)))
    seen = view(exchanges=(later,), token=True, now=began)
    assert abs(skew_of(seen, later)) < 2
    assert refused_token(seen, later).code == "token_refused"
    off = refusal(began + 65, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(began + 125)))
    assert refused_token(view(exchanges=(off,), token=True, now=began), off).code == "clock_skew"


def test_a_refused_token_is_certain_only_where_the_server_says_so() -> None:
    """A bare 401 may as well mean that the token did not arrive."""
    bare = refusal(100.0, "")
    assert refused_token(view(exchanges=(bare,), token=True, now=100.0), bare).sure == "likely"
    said = refusal(
        100.0, "", **{"www-authenticate": 'Bearer error="invalid_token", error_description="bad signature"'}
    )
    assert refused_token(view(exchanges=(said,), token=True, now=100.0), said).sure == "certain"
    expired = view(exchanges=(bare,), token=True, claims={"exp": 50}, now=100.0)
    found = refused_token(expired, bare)
    assert (found.code, found.sure) == ("token_expired_here", "likely")
