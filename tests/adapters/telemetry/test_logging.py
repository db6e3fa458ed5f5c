"""Logs: planted canaries never appear, logging never raises, one record is one line."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from narthex.adapters.telemetry.logging import configure_logging, get_logger
from narthex.adapters.telemetry.redaction import REDACTOR

KEY = "e2e-Live-Key-93fA0c7Q"  # registered: settings know it
JWT = (
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiJncmFjZSIsImV4cCI6MTc5NjAwMDAwMH0."
    "MEUCIQDx0PqkTz4uYb1v5g7wz8N2kq3Jr6s9Lm0aVbXcDeFgHi"
)
TICKET = "tk-9fQ2xLw7Zp4Rk8Vn"
COOKIE = "ck5Jd0Wm2Ys6Ht1Bg3"
BODY_PASSWORD = "pw-Zr8Nc4Ux1Qe7"
CANARIES = (KEY, JWT, TICKET, COOKIE, BODY_PASSWORD)


class Log:
    """The written records."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        """Everything."""
        return self.stream.getvalue()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Each line as JSON."""
        return [json.loads(line) for line in self.text.splitlines()]

    def assert_clean(self) -> None:
        """No piece of 8 characters of any canary appears."""
        assert self.text
        for canary in CANARIES:
            for start in range(len(canary) - 7):
                assert canary[start : start + 8] not in self.text, self.text


@pytest.fixture
def configure() -> Iterator[Callable[..., Log]]:
    """Configures logging to memory, and restores it afterwards."""
    root = logging.getLogger()
    kept = (list(root.handlers), root.level, sys.excepthook, threading.excepthook, sys.unraisablehook)

    def make(level: str = "debug", log_format: str = "json", *, hooks: bool = False) -> Log:
        log = Log()
        configure_logging(log_format=log_format, level=level, secrets=[KEY], stream=log.stream, hooks=hooks)
        return log

    yield make
    root.handlers[:], level, sys.excepthook, threading.excepthook, sys.unraisablehook = kept
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.raiseExceptions = True
    structlog.reset_defaults()
    REDACTOR.forget()


def plant(log: Callable[..., None]) -> None:
    """Log the canaries as careless code would: in the event, in members, in headers, URLs and exceptions."""
    head = [
        ("Authorization", f"Bearer {JWT}"),
        ("Cookie", f"narthex={COOKIE}; theme=dark"),
        ("Sec-WebSocket-Protocol", f"jwt-auth, jwt.{JWT}"),
        ("X-E2E-Bypass-Key", KEY),
        ("X-Custom", COOKIE),
    ]
    log(f"GET /ws?ticket={TICKET}&x=1 HTTP/1.1")
    log("request", url=f"wss://chat.example/ws?ticket={TICKET}", headers=head)
    log("request", headers=dict(head), query=f"ticket={TICKET}", body=f'{{"password": "{BODY_PASSWORD}"}}')
    log(f"headers: {head!r}")
    log(f"raw: {[(name.lower().encode(), value.encode()) for name, value in head]!r}")
    log(f"subprotocols offered: jwt-auth, jwt.{JWT}")
    log("prefix", text=f"token starts with {JWT[:20]}, key with {KEY[:8]}")
    log("command", frame=f'{{"id":1,"connect":{{"token":"{JWT}"}}}}', nested={"connect": {"token": JWT}})
    log("login", form={"email": "ada@example.com", "password": BODY_PASSWORD})
    log("ticket", ticket=TICKET, session=COOKIE, jwt=JWT, key=KEY)


def explode(level: int = 0) -> None:
    """Raise an exception whose text, cause and note hold canaries, from frames whose locals do."""
    token, key = JWT, KEY
    if level < 3:
        try:
            explode(level + 1)
        except ValueError as error:
            error.add_note(f"while handling Cookie: narthex={COOKIE}")
            raise RuntimeError(f"handshake failed for Authorization: Bearer {token} with {key}") from error
    raise ValueError(f"bad ticket: '{TICKET}' and key {key!r}")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_no_canary_in_our_own_records(configure: Callable[..., Log], log_format: str, level: str) -> None:
    """At every level and in both formats."""
    log = configure(log_format=log_format)
    plant(getattr(get_logger("narthex.test"), level))
    log.assert_clean()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_canary_in_tracebacks(configure: Callable[..., Log], log_format: str) -> None:
    """Not in the text, the cause, the notes or the frames of an exception, and the rest stays readable."""
    log = configure(log_format=log_format)
    try:
        explode()
    except RuntimeError as error:
        get_logger("narthex.test").exception("bug", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
        get_logger("narthex.test").error("bug", exc_info=error)
        get_logger("narthex.test").error("bug", fault=error)
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    log.assert_clean()
    assert "in explode" in log.text
    assert "RuntimeError: handshake failed" in log.text
    assert "4bf92f3577b34da6a3ce929d0e0e4736" in log.text


@pytest.mark.parametrize(
    "name", ["uvicorn.access", "uvicorn.error", "websockets.server", "httpx2", "asyncio", "x"]
)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_no_canary_in_libraries_records(configure: Callable[..., Log], name: str, level: int) -> None:
    """The access log writes query strings, websockets' debug writes heads: neither gets through."""
    log = configure()
    library = logging.getLogger(name)
    library.log(level, '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", f"/ws?ticket={TICKET}", "1.1", 403)
    library.log(level, "< Authorization: Bearer %s", JWT)
    library.log(level, '> TEXT \'{"connect":{"token":"%s"}}\'', JWT)
    logging.getLogger("narthex.marker").warning("end")
    log.assert_clean()


def test_libraries_debug_is_never_heard(configure: Callable[..., Log]) -> None:
    """It quotes frames: redaction could never be complete."""
    log = configure(level="debug")
    logging.getLogger("websockets").debug("frame")
    logging.getLogger("narthex.edge").debug("ours")
    assert [record["event"] for record in log.records] == ["ours"]


def test_no_canary_in_uncaught_exceptions(configure: Callable[..., Log]) -> None:
    """Python would print them to stderr itself: threads, finalizers, the main program, warnings, asyncio."""
    log = configure(hooks=True)
    thread = threading.Thread(target=explode)
    thread.start()
    thread.join()

    class Finalized:
        def __del__(self) -> None:
            explode()

    Finalized()
    gc.collect()
    try:
        explode()
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"old cookie: narthex={COOKIE}", stacklevel=1)
    loop = asyncio.new_event_loop()
    loop.call_exception_handler({"message": f"Authorization: Bearer {JWT}", "exception": ValueError(KEY)})
    loop.close()
    log.assert_clean()
    events = [record["event"] for record in log.records]
    assert events.count("uncaught exception") == 2
    assert "unraisable exception" in events


def test_a_record_has_what_machines_look_for(configure: Callable[..., Log]) -> None:
    """One JSON object per line, with time, level, severity, event, logger and the unchanged members."""
    log = configure()
    get_logger("narthex.handshake").debug(
        "handshake", outcome="refused", carriers=["cookie"], duration_ms=0.25
    )
    logging.getLogger("uvicorn.error").info("Started %s", "here")
    ours, theirs = log.records
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "level": "debug",
        "severity": "DEBUG",
        "event": "handshake",
        "logger": "narthex.handshake",
        "outcome": "refused",
        "carriers": ["cookie"],
        "duration_ms": 0.25,
    }
    assert (theirs["level"], theirs["event"], theirs["logger"]) == ("info", "Started here", "uvicorn.error")


def test_levels_hold(configure: Callable[..., Log]) -> None:
    """For our own records and for the stdlib's."""
    log = configure(level="warning")
    for name in ("debug", "info", "warning", "error"):
        getattr(get_logger("narthex.a"), name)("ours")
        getattr(logging.getLogger("narthex.b"), name)("stdlib")
    assert [record["level"] for record in log.records] == ["warning", "warning", "error", "error"]


def test_bound_context_is_in_the_record(configure: Callable[..., Log]) -> None:
    """A trace id that is bound for a request is in all of its records."""
    log = configure()
    with structlog.contextvars.bound_contextvars(trace_id="4bf92f3577b34da6a3ce929d0e0e4736"):
        get_logger("x").info("inside")
    get_logger("x").info("outside")
    assert [record.get("trace_id") for record in log.records] == ["4bf92f3577b34da6a3ce929d0e0e4736", None]


class Rude:
    """An object that cannot be rendered."""

    def __str__(self) -> str:
        raise RuntimeError(KEY)

    __repr__ = __str__
    __format__ = None  # type: ignore[assignment] # rude on purpose


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logging_never_raises(configure: Callable[..., Log], log_format: str) -> None:
    """Wrong formats, wrong types, broken texts, circles, lone surrogates."""
    log = configure(log_format=log_format)
    circle: list[object] = []
    circle.append(circle)
    ours = get_logger("narthex.test")
    ours.info("%d items", "three")
    ours.info("%s %s", 1)
    ours.info(Rude())
    ours.info(None)
    ours.info("x", value=Rude(), circle=circle, number=10**400, text="\ud800", logger="other", level="none")
    ours.info("x", exc_info="nonsense", stack=Rude())
    ours.exception("no exception is there")
    logging.getLogger("lib").warning("%d", "x")
    logging.getLogger("lib").warning(Rude())
    assert log.text.count("\n") == 9 if log_format == "json" else log.text
    assert KEY not in log.text


class Broken(io.StringIO):
    """A stderr whose reader has gone."""

    def write(self, text: str) -> int:
        """Fail."""
        raise BrokenPipeError(text)


def test_a_broken_stderr_costs_nothing_but_records(configure: Callable[..., Log]) -> None:
    """Neither a broken pipe nor a closed stream may end a connection."""
    configure()
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        configure_logging(log_format="json", level="debug", stream=stream, hooks=False)
        get_logger("x").error("lost")
        logging.getLogger("lib").error("lost")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_client_cannot_forge_a_record(configure: Callable[..., Log], log_format: str) -> None:
    """A line break in a value makes no new line, in an exception's text no line that looks like a record."""
    log = configure(log_format=log_format)
    forged = "x\n12:00:00.000 error    forged"
    get_logger("x").info(forged, client=forged)
    get_logger("x").error("real", exc_info=ValueError(forged))
    assert not any(line.startswith("12:00:00.000 error    forged") for line in log.text.splitlines())


def test_configuring_twice_writes_once(configure: Callable[..., Log]) -> None:
    """A worker process configures after its parent did."""
    configure()
    log = configure()
    logging.getLogger("lib").warning("once")
    assert len(log.records) == 1


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("0", False), ("", True), (None, True)])
def test_no_color_is_honoured(value: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: present and not empty, whatever it holds."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    stream = Terminal()
    configure_logging(log_format="console", stream=stream, hooks=False)
    get_logger("narthex.test").warning("seen")
    assert "seen" in stream.getvalue()
    assert ("\x1b[" in stream.getvalue()) is coloured
