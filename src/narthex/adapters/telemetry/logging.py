"""Logs: structlog records and every library's stdlib records, redacted, as JSON or for a console, to stderr.

Not here: redaction (`redaction.py`). Rules: logging never raises, for any value and any stderr; a record is one line
of JSON, or on a console one line and an indented traceback; libraries log from `info` up only, because their debug
output quotes request heads and frames. Tracebacks hold no local variables.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO, cast

import msgspec

# structlog imports rich, if it can, for a console renderer that is not ours: 150 ms of every start. While it is
# imported rich is out of reach, as where it is not installed.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]  # None is how Python spells "cannot be imported"
try:
    import structlog
finally:
    if _rich is None:
        del sys.modules["rich"]
    else:
        sys.modules["rich"] = _rich

from narthex.adapters.telemetry.redaction import MAX_TRACEBACK, REDACTOR, as_text  # noqa: E402 - after the lines above, which are its point
from narthex.adapters.telemetry.trace_members import add_trace, find_project  # noqa: E402 - likewise

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
MAX_FRAMES: Final = 40
_NOISY: Final = ("httpx2", "httpcore", "httpcore2", "uvicorn.access", "asyncio")
"""Their `info` is one record per request or per debug-mode slow callback: warnings and up only."""

_COLOURS: Final = {"debug": 90, "info": 32, "warning": 33, "error": 31, "critical": 31}


class Output:
    """Where records go. A broken pipe or a closed stream loses records and nothing else."""

    def __init__(self, stream: TextIO, *, console: bool) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.console = console
        # https://no-color.org: present and not empty, whatever its value.
        self.colour = console and _is_terminal(stream) and not os.environ.get("NO_COLOR")

    def write(self, line: str) -> None:
        """Write one record; never raises."""
        with contextlib.suppress(Exception), self._lock:
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:
                self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii") + "\n")
            self._stream.flush()

    def record(self, level: str, members: MutableMapping[str, Any]) -> None:
        """Redact, render and write one record; never raises."""
        try:
            line = _render(level, members, self)
        except Exception as error:  # noqa: BLE001,RUF100 - logging must not raise
            # Only the kind: the text of what broke may quote what could not be redacted.
            line = f'{{"level":"error","event":"a log record could not be rendered","error":"{type(error).__name__}"}}'
        self.write(line)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


def _render(level: str, members: MutableMapping[str, Any], output: Output) -> str:
    google = add_trace(members)
    event = REDACTOR.line(as_text(members.pop("event", "")))
    logger = members.pop("logger", "")
    trace = _traceback(members.pop("exc_info", None))
    stack = members.pop("stack", None) or members.pop("stack_info", None)
    kept = REDACTOR.members(members)
    if trace or stack:
        text = "\n".join(part for part in (as_text(stack) if stack else "", trace) if part)
        kept["exception"] = REDACTOR.text(text, limit=MAX_TRACEBACK)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if output.console:
        return _console(now, level, event, as_text(logger), kept, colour=output.colour)
    # `severity` is what Google Cloud Logging reads, `level` every other reader.
    record: dict[str, Any] = {
        "timestamp": now,
        "level": level,
        "severity": level.upper(),
        "event": event,
        "logger": logger,
    } | kept
    return msgspec.json.encode(record | google, enc_hook=str).decode()


def _console(now: str, level: str, event: str, logger: str, kept: dict[str, Any], *, colour: bool) -> str:
    trace = kept.pop("exception", "")
    name = f"\x1b[{_COLOURS.get(level, 0)}m{level:<8}\x1b[0m" if colour else f"{level:<8}"
    parts = [now[11:23], name, event]
    parts += [f"{key}={_console_value(value)}" for key, value in kept.items() if value not in ("", None)]
    if logger and level not in ("debug", "info"):
        parts.append(f"({logger})")
    if trace:
        # Indented, so that no line of an exception's message can pass for a record of its own.
        parts.append("\n" + "\n".join("    " + line for line in trace.splitlines()))
    return " ".join(parts)


def _console_value(value: Any) -> str:
    if isinstance(value, str):
        return (
            value if value and " " not in value and '"' not in value else msgspec.json.encode(value).decode()
        )
    if isinstance(value, float):
        return f"{value:g}"
    return msgspec.json.encode(value, enc_hook=str).decode()


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _traceback(exc_info: Any) -> str:
    if not exc_info:
        return ""
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if not (isinstance(exc_info, tuple) and len(exc_info) == 3 and exc_info[1] is not None):
        return ""
    kind, error, frames = cast("ExcInfo", exc_info)
    formatted = traceback.TracebackException(kind, error, frames, limit=-MAX_FRAMES, capture_locals=False)
    return "".join(formatted.format())[:MAX_TRACEBACK].rstrip()


class _Sink:
    """The end of structlog's chain: one per logger name."""

    def __init__(self, output: Output, name: str) -> None:
        self._output = output
        self._name = name

    def __getattr__(self, level: str) -> Any:
        return lambda **members: self._output.record(_level(level), {"logger": self._name, **members})


def _level(method: str) -> str:
    return {"exception": "error", "warn": "warning", "fatal": "critical", "msg": "info"}.get(method, method)


class StdlibBridge(logging.Handler):
    """Hands stdlib records to the same output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Redact and write one record; never raises."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001,RUF100 - a library's wrong format string must not raise here
            message = as_text(record.msg)
        members: dict[str, Any] = {
            "event": message.strip(),
            "logger": record.name,
            "exc_info": record.exc_info,
            "stack": record.stack_info,
        }
        self._output.record(_level(record.levelname.lower()), members)


def configure_logging(
    *,
    log_format: str = "auto",
    level: str = "info",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    hooks: bool = True,
) -> Output:
    """Route all logging of the process. Call first thing in every process, before libraries log.

    Args:
        log_format: `json`, `console`, or `auto`: console on a terminal.
        level: least severe level of narthex's own records; libraries' are at least `info`.
        secrets: live secrets to mask (`Settings.secret_values()`).
        stream: None takes stderr.
        hooks: also route uncaught exceptions, which Python would print unredacted.
    """
    find_project()
    target = stream if stream is not None else sys.stderr
    console = log_format == "console" or (log_format == "auto" and _is_terminal(target))
    output = Output(target, console=console)
    REDACTOR.register(secrets)
    number = LEVELS[level]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _hand_over],
        wrapper_class=_safe(structlog.make_filtering_bound_logger(number)),
        logger_factory=lambda *names: _Sink(output, str(names[0]) if names else "narthex"),
        cache_logger_on_first_use=False,
    )
    _configure_stdlib(output, number)
    if hooks:
        _install_hooks(output)
    return output


def _safe(base: Any) -> Any:
    """`base` with methods that cannot raise, whatever they are given (`log.info("%d", "x")`)."""

    def wrap(name: str) -> Callable[..., None]:
        method = getattr(base, name)

        def guarded(self: Any, event: object = "", *args: object, **members: object) -> None:
            try:
                method(self, event, *args, **members)
            except Exception:  # noqa: BLE001,RUF100 - logging must not raise
                with contextlib.suppress(Exception):
                    method(self, as_text(event), **{str(key): value for key, value in members.items()})

        return guarded

    names = ("debug", "info", "warning", "warn", "error", "critical", "fatal", "exception", "msg")
    return type("SafeLogger", (base,), {name: wrap(name) for name in names})


def _hand_over(
    logger: object, method: str, members: MutableMapping[str, Any]
) -> tuple[tuple[()], dict[str, Any]]:
    del logger
    members.pop("log_name", None)  # the sink knows it
    if method == "exception":
        members.setdefault("exc_info", True)
    return (), dict(members)


def _configure_stdlib(output: Output, number: int) -> None:
    logging.raiseExceptions = False
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, StdlibBridge) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    root.addHandler(StdlibBridge(output))
    root.setLevel(max(number, logging.INFO))
    logging.getLogger("narthex").setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(number, logging.INFO))
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(capture=True)


def _install_hooks(output: Output) -> None:
    def uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            output.record("critical", {"event": "uncaught exception", "exc_info": (kind, error, frames)})

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    def unraisable(args: Any) -> None:
        error = args.exc_value
        output.record(
            "error", {"event": "unraisable exception", "exc_info": error, "where": str(args.err_msg or "")}
        )

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable


class _StdlibSink:
    """Hands narthex's masked records to the embedding program's own stdlib logging, as text."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __getattr__(self, level: str) -> Any:
        number = LEVELS.get(_level(level), logging.INFO)

        def write(**members: Any) -> None:
            if self._logger.isEnabledFor(number):
                self._logger.log(number, "%s", _plain(members))

        return write


def _plain(members: MutableMapping[str, Any]) -> str:
    event, trace = str(members.pop("event", "")), members.pop("exception", "")
    members.pop("logger", None)
    parts = [event, *(f"{key}={_console_value(value)}" for key, value in members.items())]
    return " ".join(parts) + (f"\n{trace}" if trace else "")


class _MaskFilter(logging.Filter):
    """Masks the records that our own code and uvicorn make through stdlib loggers, before any handler has them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask in place; never raises, never drops."""
        try:
            record.msg, record.args = REDACTOR.line(record.getMessage()), ()
            if record.exc_info:
                record.exc_text = REDACTOR.text(_traceback(record.exc_info), limit=MAX_TRACEBACK)
                record.exc_info = None
        except Exception as error:  # noqa: BLE001,RUF100 - logging must not raise
            record.msg, record.args = f"a log record could not be masked: {type(error).__name__}", ()
            record.exc_info, record.exc_text = None, None
        return True


def mask_ours(logger: object, method: str, members: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: masks narthex's own records and leaves those of the embedding program as they are."""
    del logger
    name = str(members.pop("log_name", ""))
    if not name.startswith("narthex"):
        return members
    trace = _traceback(members.pop("exc_info", None) or method == "exception")
    kept: dict[str, Any] = {"event": REDACTOR.line(as_text(members.pop("event", ""))), "logger": name}
    kept |= REDACTOR.members(members)
    if trace:
        kept["exception"] = REDACTOR.text(trace, limit=MAX_TRACEBACK)
    return kept


_MASKED_LOGGERS: Final = (
    "narthex",
    "narthex.edge",
    "uvicorn.error",
)  # a filter holds for its own logger only


def mask_records(secrets: Iterable[str]) -> None:
    """For an embedding program, whose logging is its own: mask what narthex says, wherever it goes.

    Call it after the program configured structlog, if it does. Where `configure_logging` was called nothing is
    left to do but to know the secrets. Without any configuration of structlog narthex's records go to the stdlib
    loggers `narthex.*`.
    """
    REDACTOR.register(secrets)
    for name in _MASKED_LOGGERS:
        found = logging.getLogger(name)
        if not any(isinstance(one, _MaskFilter) for one in found.filters):
            found.addFilter(_MaskFilter())
    processors = structlog.get_config()["processors"] if structlog.is_configured() else []
    if _hand_over in processors or mask_ours in processors:
        return
    if processors:
        structlog.configure(processors=[mask_ours, *processors])
        return
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, mask_ours, _hand_over_masked],
        wrapper_class=_safe(structlog.make_filtering_bound_logger(0)),
        logger_factory=lambda *names: _StdlibSink(str(names[0]) if names else "narthex"),
        cache_logger_on_first_use=False,
    )


def _hand_over_masked(
    logger: object, method: str, members: MutableMapping[str, Any]
) -> tuple[tuple[()], dict[str, Any]]:
    del logger, method
    return (), dict(members)


def is_unconfigured() -> bool:
    """Whether the program has configured no logging of its own, so that its records would go nowhere useful."""
    processors = structlog.get_config()["processors"] if structlog.is_configured() else []
    return not logging.getLogger().handlers and (not processors or _hand_over_masked in processors)


def get_logger(name: str) -> Any:
    """A structlog logger whose records carry `logger=name`. Any: structlog's lazy proxy has no narrower type.

    On a hot path call `.bind()` once and keep the result: a call below the level then costs 0.4 µs instead of 2.
    """
    return structlog.get_logger(name, log_name=name)
