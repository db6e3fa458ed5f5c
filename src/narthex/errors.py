"""The error tree: every exception that narthex raises on purpose, split by who must act.

A refusal of a client's credential is not here: it is a value (`narthex.domain.refusals`).

    NarthexError                 code, message, remedy
    ├── ClientError              the caller of an API or RPC sent something that cannot be done
    ├── ConfigError              the operator who starts the process must change a setting (exit 78)
    ├── DependencyError          an engine or service that narthex needs did not answer
    │   ├── Overloaded           it answers, but a bound of ours is reached: come back later
    │   └── Damaged              what it keeps cannot be read: the operator must restore it (exit 78)
    └── Bug                      narthex itself is wrong; the trace id leads to the log record

Rules: a message is one sentence of what happened, a remedy one sentence of what to do, and neither ever
holds a token, a key or a header value.
"""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
EXIT_FINDINGS: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 69  # sysexits EX_UNAVAILABLE
EXIT_BUG: Final = 70  # EX_SOFTWARE
EXIT_CONFIG: Final = 78  # EX_CONFIG


class NarthexError(Exception):
    """Root of the tree.

    Attributes:
        code: snake_case name that callers may script against.
        message: what happened, in one sentence.
        remedy: one sentence with the action to take; may be empty only for `Bug`.
    """

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.code = code
        self.message = message
        self.remedy = remedy


class ClientError(NarthexError):
    """The caller asked for something that cannot be done; nothing changed.

    Attributes:
        number: numeric code of an RPC error, ≥ 400 (docs/protocol.md lists them).
    """

    def __init__(self, code: str, message: str, remedy: str = "", *, number: int = 400) -> None:
        super().__init__(code, message, remedy)
        self.number = number


class ConfigError(NarthexError):
    """A setting is missing or wrong. The process must not open a port; it exits 78.

    Attributes:
        problems: every problem found, each a full sentence with its remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("configuration", "\n".join(problems), "")
        self.problems = problems


DISK_FULL: Final = "disk_full"  # or, on NATS, a disk that takes no writes for another reason
MEMORY_FULL: Final = "memory_full"  # Redis has reached its maxmemory
ENGINE_HUNG: Final = "engine_hung"  # it keeps its connections or files and does not answer


class DependencyError(NarthexError):
    """An engine or service did not do its part (refused, timed out, answered 5xx).

    Attributes:
        dependency: its role, as in health checks: `broker`, `store`, `auth`, `agents`.
        retry_after_s: seconds after which trying again makes sense.
        sign: the kind of fault where health names it everywhere: `DISK_FULL`, `MEMORY_FULL`, `ENGINE_HUNG`, or
            empty.
    """

    def __init__(
        self,
        dependency: str,
        message: str,
        remedy: str = "",
        *,
        retry_after_s: float = 1.0,
        code: str = "",
        sign: str = "",
    ) -> None:
        super().__init__(code or f"{dependency}_unavailable", message, remedy)
        self.sign = sign
        self.dependency = dependency
        self.retry_after_s = retry_after_s


class Overloaded(DependencyError):
    """A bounded queue in front of a dependency is full; nothing was written."""


class Damaged(DependencyError):
    """The data that the dependency keeps is damaged: retrying is useless, the operator must restore it."""

    def __init__(self, dependency: str, message: str, remedy: str) -> None:
        super().__init__(dependency, message, remedy, code=f"{dependency}_damaged")


class Bug(NarthexError):
    """An invariant of narthex does not hold."""
