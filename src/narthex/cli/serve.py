"""`narthex serve`: the gateway, in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from narthex.cli.flags import LogFormat, LogLevel
from narthex.errors import EXIT_FINDINGS, EXIT_OK

TOKEN_TTL_S = 12 * 3600.0  # of the ready-made token: a working day


def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    data_dir: Path | None = None,
    agent: Annotated[list[str] | None, Parameter(consume_multiple=False, negative_iterable=())] = None,
    workers: int | None = None,
    run_agents: Annotated[bool | None, Parameter(negative="--no-agents")] = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    allow_anonymous: bool | None = None,
    allow_remote_development: bool | None = None,
    config: Path | None = None,
) -> int:
    """Serve the gateway until SIGTERM or Ctrl-C.

    Without any option: an embedded broker, store and sign-in under ./narthex-data, a built-in agent, and
    http://127.0.0.1:8000. Every option is also a variable (NARTHEX_PORT, …) and a line of narthex.toml.

    Examples:
        narthex serve
        narthex serve --port 9000 --agent myagents:parrot
        ENVIRONMENT=staging NARTHEX_OIDC_ISSUER=https://id.example.com narthex serve

    Args:
        host: Address to listen on (development: 127.0.0.1; staging and production: 0.0.0.0).
        port: Port; 0 takes a free one.
        data_dir: Directory of the embedded broker, store and signing keys.
        agent: `module:function`, `module:agent`, `agui+https://…` or `openai+http://…#model`; repeatable.
        workers: Processes on the one port.
        run_agents: Run agents here; --no-agents leaves them to `narthex worker` processes.
        log_format: json for machines, console for people.
        log_level: Least severe record that is written; handshake records are debug.
        allow_anonymous: Admit guests from allowed origins (development and testing only).
        allow_remote_development: Let development listen beyond loopback.
        config: The settings file instead of ./narthex.toml.
    """
    from narthex.adapters.telemetry.logging import configure_logging, get_logger
    from narthex.settings import load

    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "agents": agent,
        "workers": workers,
        "run_agents": run_agents,
        "log_format": log_format,
        "log_level": log_level,
        "allow_anonymous": allow_anonymous,
        "allow_remote_development": allow_remote_development,
    }
    settings = load(flags, os.environ, config)
    configure_logging(
        log_format=settings.log_format, level=settings.log_level, secrets=settings.secret_values()
    )
    log = get_logger("narthex")
    for warning in settings.warnings:
        log.warning("configuration", detail=warning)
    sys.path.insert(0, "")  # `--agent myagents:parrot` finds the module beside where one stands
    from narthex.wiring.start_checks import check_start

    # The parent of several workers runs none of their code; each of them loads the agents itself.
    check_start(settings, agents=settings.workers == 1)
    if settings.workers > 1:
        from narthex.wiring.announcement import announce
        from narthex.wiring.supervisor import Supervisor

        orderly = Supervisor(settings, flags, config, lambda url: announce(settings, [url], None)).run()
        return EXIT_OK if orderly else EXIT_FINDINGS
    from narthex.wiring.announcement import announce
    from narthex.wiring.gateway import GatewayServer

    orderly = GatewayServer(settings).run(lambda urls, parts: announce(settings, urls, parts))
    return EXIT_OK if orderly else EXIT_FINDINGS
