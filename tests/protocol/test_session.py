"""The session's table, row by row, and as a Hypothesis state machine."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from narthex.domain.limits import Limits
from narthex.protocol import codes
from narthex.protocol.session import (
    LIFE_SLACK_S,
    LIFE_STEP_S,
    NEVER,
    Phase,
    Session,
    SessionFault,
    SessionLimits,
)

LIMITS = SessionLimits(
    ping_every_s=25, pong_within_s=10, silence_s=10, expiry_grace_s=25, commands_per_s=60, command_burst=120
)
CONNECT = b'{"id":1,"connect":{}}'
ECHO = b'{"id":2,"rpc":{"method":"echo"}}'


def live(now: float = 0.0, expires_at: float = NEVER) -> Session:
    """A session past its connect."""
    session = Session(LIMITS, now)
    session.receive(CONNECT, now)
    session.connected(now, expires_at=expires_at)
    return session


def fault(session: Session, frame: bytes, now: float = 0.0) -> codes.Disconnect:
    """The disconnect that a frame provokes."""
    with pytest.raises(SessionFault) as caught:
        session.receive(frame, now)
    return caught.value.disconnect


def test_anything_before_connect_is_3501() -> None:
    """A command and a pong alike."""
    assert fault(Session(LIMITS, 0), ECHO).code == 3501
    assert fault(Session(LIMITS, 0), b"{}").code == 3501


def test_connect_comes_once() -> None:
    """While connecting and afterwards a second one is 3501."""
    session = Session(LIMITS, 0)
    session.receive(CONNECT, 0)
    assert fault(session, CONNECT).code == 3501
    assert fault(live(), CONNECT).code == 3501


def test_commands_batched_behind_connect_are_asked() -> None:
    """The driver holds them until the connect is answered."""
    received = Session(LIMITS, 0).receive(CONNECT + b"\n" + ECHO, 0)
    assert [item.name for item in received] == ["connect", "rpc"]


def test_a_failed_connect_may_be_tried_again_until_silence() -> None:
    """Error 109 keeps the connection; its deadline continues."""
    session = Session(LIMITS, 0)
    session.receive(CONNECT, 1)
    session.failed_connect()
    assert [item.name for item in session.receive(CONNECT, 9)] == ["connect"]
    assert session.due(10).disconnect is codes.STALE


def test_a_command_without_an_id_is_3501() -> None:
    """Only `send` and `ping` want no reply."""
    assert fault(live(), b'{"rpc":{"method":"echo"}}').code == 3501
    assert fault(live(), b'{"id":-1,"rpc":{"method":"echo"}}').code == 3501
    assert [item.name for item in live().receive(b'{"send":{"data":1}}', 0)] == ["send"]


def test_silence_ends_a_connection_that_never_connects() -> None:
    """10 s, then 3502."""
    session = Session(LIMITS, 100)
    assert session.wake_at() == 110
    assert session.due(109.9).disconnect is None
    assert session.due(110).disconnect is codes.STALE


def test_pings_and_the_pong_that_never_comes() -> None:
    """A ping every 25 s; without a pong 3012 after 10 s more."""
    session = live()
    assert session.wake_at() == 25
    assert session.due(25).ping
    assert session.wake_at() == 35
    session.receive(b"{}", 26)
    assert session.wake_at() == 50
    assert session.due(50).ping
    assert session.due(60).disconnect is codes.NO_PONG
    session.excuse_pong(60)
    assert session.wake_at() == 70
    assert session.due(69).disconnect is None
    assert session.due(70).disconnect is codes.NO_PONG


def test_expiry_has_a_grace_and_a_refresh_ends_it() -> None:
    """`exp` + 25 s, then 3005; a fresh token moves it."""
    session = live(expires_at=40)
    session.due(25)
    session.receive(b"{}", 26)
    session.due(50)
    session.receive(b"{}", 51)
    assert session.due(64.9).disconnect is None
    assert session.due(65).disconnect is codes.TOKEN_LIFE_ENDED
    session.refreshed(1000)
    assert session.due(65).disconnect is None


def test_a_burst_is_throttled_then_a_flood_is_closed() -> None:
    """120 at once pass, the next 120 get 111, more is 3013; time refills."""
    session = live()
    received = [session.receive(ECHO, 0)[0] for _ in range(239)]
    assert [item.throttled for item in received] == [False] * 119 + [True] * 120  # connect took one
    assert fault(session, ECHO).code == codes.TOO_MANY_COMMANDS.code
    assert live().receive(ECHO, 10)[0].throttled is False


def test_a_life_that_is_over_is_ended_and_put_off_only_for_so_long() -> None:
    """3011 at the end of `life_s`; a busy one gets a step at a time, all steps together 60 s."""
    session = Session(SessionLimits(ping_every_s=1e6), 0)
    session.receive(CONNECT, 0)
    session.connected(0, life_s=100)
    assert session.wake_at() == 100
    assert session.due(99).disconnect is None
    now = 100.0
    while session.put_off(now):
        assert session.due(now).disconnect is None
        assert now < session.wake_at() <= min(now + LIFE_STEP_S, 100 + LIFE_SLACK_S)
        now = session.wake_at()
        assert session.due(now).disconnect is codes.FORCE_RECONNECT
    assert now == 100 + LIFE_SLACK_S
    assert codes.FORCE_RECONNECT.reconnect
    assert live().wake_at() == LIMITS.ping_every_s  # without a life nothing but the ping is due


def test_pongs_that_nobody_asked_for_are_a_flood() -> None:
    """One frame can hold 20,000 of them; each costs as much as a command does."""
    session = live()
    for _ in range(100):
        assert session.receive(b"{}", 0) == []
    assert fault(live(), b"{}\n" * 241).code == 3013
    assert fault(session, b"{}\n" * 141).code == 3013


def test_nothing_comes_out_of_a_closed_session() -> None:
    """Late bytes and timers are ignored."""
    session = live()
    session.closed()
    assert session.receive(b"garbage", 1) == []
    assert session.wake_at() == NEVER
    assert session.due(1e9).disconnect is None


class SessionMachine(RuleBasedStateMachine):
    """Random frames and times: only the table's transitions happen, and only SessionFault is raised."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.session = Session(LIMITS, 0.0)

    @rule(step=st.floats(0, 30))
    def time_passes(self, step: float) -> None:
        self.now += step
        due = self.session.due(self.now)
        assert not (due.ping and due.disconnect)
        if due.ping:
            assert self.session.phase is Phase.LIVE
        if due.disconnect is not None:
            self.session.closed()

    @rule(
        frame=st.sampled_from([CONNECT, ECHO, b"{}", b"{", CONNECT + b"\n" + ECHO, b'{"id":3,"ping":{}}'])
        | st.binary(max_size=20)
    )
    def frame_arrives(self, frame: bytes) -> None:
        before = self.session.phase
        try:
            received = self.session.receive(frame, self.now)
        except SessionFault as caught:
            assert not caught.disconnect.reconnect or caught.disconnect.code == 3013
            self.session.closed()
            return
        if before is Phase.CLOSED:
            assert received == []
        if any(item.name == "connect" for item in received):
            assert before is Phase.WAITING
            assert received[0].name == "connect"
        elif received:
            assert before in (Phase.CONNECTING, Phase.LIVE)

    @precondition(lambda self: self.session.phase is Phase.CONNECTING)
    @rule(life=st.floats(1, 100))
    def answered(self, life: float) -> None:
        self.session.connected(self.now, expires_at=self.now + life)

    @precondition(lambda self: self.session.phase is Phase.CONNECTING)
    @rule()
    def answered_with_an_error(self) -> None:
        self.session.failed_connect()

    @invariant()
    def an_open_session_always_has_a_deadline(self) -> None:
        """No state waits for ever."""
        assert (self.session.wake_at() == NEVER) == (self.session.phase is Phase.CLOSED)


TestSessionMachine = SessionMachine.TestCase


def test_the_bounds_are_those_that_are_advertised() -> None:
    """The values of `/ws/config` for a gateway with default settings."""
    limits = Limits()
    assert SessionLimits() == SessionLimits(
        ping_every_s=limits.ping_interval_s,
        pong_within_s=limits.pong_timeout_s,
        silence_s=limits.inband_timeout_s,
        expiry_grace_s=25.0,
        commands_per_s=limits.commands_per_s,
        command_burst=limits.commands_burst,
        json_depth=limits.max_json_depth,
    )
