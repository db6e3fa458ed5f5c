"""The flags that `serve`, `check` and the other commands with the gateway's settings have in common.

Not here: settings themselves. Rules: a flag that was not given is None, so that the environment and the file
count; `settings/groups.py` and this module describe each one, once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from cyclopts import Parameter, Token

from narthex.settings import Settings, load
from narthex.settings.requirements import ALL_PARTS, Part


def any_case(type_: object, tokens: Sequence[Token]) -> str:
    """A choice in any case: `--log-level DEBUG` is what other programs take."""
    given = tokens[0].value
    choices = [choice for part in get_args(type_) for choice in (get_args(part) or (part,))]
    found = [choice for choice in choices if isinstance(choice, str) and choice.lower() == given.lower()]
    if not found:
        raise ValueError(
            f"Choose from {', '.join(str(choice) for choice in choices if isinstance(choice, str))}."
        )
    return found[0]


LogFormat = Annotated[Literal["auto", "json", "console"] | None, Parameter(converter=any_case)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"] | None, Parameter(converter=any_case)]


Agents = Annotated[list[str] | None, Parameter(consume_multiple=False, negative_iterable=())]
DataDir = Annotated[Path | None, Parameter(help="Data directory of the server.")]
OfGuard = Annotated[
    bool, Parameter(name="--guard", negative=(), help="For a guard (its file is guard.db), not a gateway.")
]
Config = Annotated[Path | None, Parameter(help="Settings file; default: narthex.toml here.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SettingsFlags:
    """Where and how to serve.

    Attributes:
        host: address to listen on (development: 127.0.0.1; staging and production: 0.0.0.0).
        port: port; 0 takes a free one.
        uds: listen on a Unix socket at this path.
        fd: listen on the socket that the parent process left open as this descriptor.
        root_path: path under which clients reach this server behind a proxy that removes it, such as /chat.
        metrics_port: one more port for /metrics, /livez and /readyz, without a token; 0 takes a free one.
        data_dir: directory of the embedded broker, store and signing keys.
        agent: `module:function`, `module:agent`, `agui+https://…` or `openai+http://…#model`; repeatable.
        workers: processes on the one port.
        run_agents: run agents here; --no-agents leaves them to `narthex worker` processes.
        log_format: json for machines, console for people; auto: console on a terminal.
        log_level: least severe record that is written; handshake records are debug.
        access_log: log each HTTP request, each handshake and each connection's end.
        allow_anonymous: admit guests from allowed origins; development and testing only.
        allow_remote_development: let development and testing listen beyond loopback.
        config: settings file instead of ./narthex.toml.
    """

    host: str | None = None
    port: int | None = None
    uds: Path | None = None
    fd: int | None = None
    root_path: str | None = None
    metrics_port: int | None = None
    data_dir: Path | None = None
    agent: Agents = None
    workers: int | None = None
    run_agents: Annotated[bool | None, Parameter(negative="--no-agents")] = None
    log_format: LogFormat = None
    log_level: LogLevel = None
    access_log: bool | None = None
    allow_anonymous: bool | None = None
    allow_remote_development: bool | None = None
    config: Path | None = None

    def given(self) -> dict[str, object]:
        """Option name → value of the flags that were given."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        found["agents"] = found.pop("agent")
        return {name: value for name, value in found.items() if value is not None}

    def settings(self) -> Settings:
        """Read and check the settings. Raises ConfigError with every problem."""
        return load(self.given(), os.environ, self.config)


NO_FLAGS: Final = SettingsFlags()
"""The default of a command's parameter."""


def serving_settings(
    flags: Mapping[str, Any],
    config: Path | None,
    default_port: int | None = None,
    *,
    parts: Collection[Part] = ALL_PARTS,
) -> Settings:
    """The settings of a command that serves, after its log was configured and its warnings were written.

    Args:
        flags: as for `narthex.settings.load`.
        config: the settings file.
        default_port: the command's own, where nothing sets one; None: the settings' default.
        parts: as for `narthex.settings.load`.

    Raises:
        ConfigError: with every problem.
    """
    settings = load(flags, os.environ, config, parts=parts)
    if default_port is not None and settings.source("port") == "default":
        settings = load({**flags, "port": default_port}, os.environ, config, parts=parts)
    begin_log(settings)
    return settings


def begin_log(settings: Settings) -> None:
    """Configure the log of a command that serves, and write the settings' warnings to it."""
    from narthex.adapters.telemetry.logging import configure_logging, get_logger

    configure_logging(
        log_format=settings.log_format, level=settings.log_level, secrets=settings.secret_values()
    )
    log = get_logger("narthex")
    for warning in settings.warnings:
        log.warning("configuration", detail=warning)
