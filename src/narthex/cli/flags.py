"""The flags that `serve`, `check` and the other commands with the gateway's settings have in common.

Not here: settings themselves. Rules: a flag that was not given is None, so that the environment and the file
count; `settings/groups.py` and this module describe each one, once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from cyclopts import Parameter, Token

from narthex.settings import Settings, load


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SettingsFlags:
    """Where and how to serve.

    Attributes:
        host: address to listen on.
        port: port; 0 takes a free one.
        data_dir: directory of the embedded broker, store and signing keys.
        agent: agent, repeatable: module:function, agui+https://…, openai+http://…#model.
        workers: processes on the one port.
        run_agents: run agents here; --no-agents leaves them to `narthex worker`.
        log_format: json, console, or auto (console on a terminal).
        log_level: debug, info, warning or error.
        allow_anonymous: admit guests from allowed origins; development and testing only.
        allow_remote_development: let development and testing listen beyond loopback.
        config: settings file; default narthex.toml here.
    """

    host: str | None = None
    port: int | None = None
    data_dir: Path | None = None
    agent: Annotated[list[str] | None, Parameter(negative_iterable=())] = None
    workers: int | None = None
    run_agents: Annotated[bool | None, Parameter(negative="--no-agents")] = None
    log_format: LogFormat = None
    log_level: LogLevel = None
    allow_anonymous: Annotated[bool | None, Parameter(negative=())] = None
    allow_remote_development: Annotated[bool | None, Parameter(negative=())] = None
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
