"""`narthex serve`: the gateway, in the foreground."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from narthex.cli.flags import LogFormat, LogLevel
from narthex.errors import EXIT_FINDINGS, EXIT_OK

if TYPE_CHECKING:
    from narthex.settings import Settings
    from narthex.wiring.parts import Parts

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
    from narthex.wiring.rehearsal import rehearse

    # The parent of several workers runs none of their code; each of them loads the agents itself.
    rehearse(settings, agents=settings.workers == 1)
    if settings.workers > 1:
        from narthex.wiring.workers import Supervisor

        orderly = Supervisor(settings, flags, config, lambda url: _announce(settings, [url], None)).run()
        return EXIT_OK if orderly else EXIT_FINDINGS
    from narthex.wiring.gateway import Gateway

    orderly = Gateway(settings).run(lambda urls, parts: _announce(settings, urls, parts))
    return EXIT_OK if orderly else EXIT_FINDINGS


def _announce(settings: Settings, urls: list[str], parts: Parts | None) -> None:
    """What a person wants to know first. A token goes to a terminal only: output that is kept is a log."""
    url = settings.public_url or urls[0].replace("//0.0.0.0", "//127.0.0.1")
    socket_url = url.replace("http", "ws", 1)
    print(f"narthex is ready ({settings.environment})")
    print(f"  chat      {url}/")
    print(f"  socket    {socket_url}/ws")
    print(f"  health    {url}/ws/health")
    ring = parts.tokens.provider_keys if parts is not None else None
    if not settings.provider_enabled:
        print("  tokens    from your issuer")
    elif parts is not None and ring is not None and _to_a_developer(settings):
        from narthex.domain.identity import Identity

        token = ring.mint(Identity(subject="developer", name="Developer"), ttl_s=TOKEN_TTL_S, now=parts.now())
        print(f"  token     {token}")
        print(f"            for `developer`, {TOKEN_TTL_S / 3600:.0f} h; another: narthex token --sub ada")
    else:
        print(f"  token     narthex token --data-dir {shlex.quote(str(settings.data_dir))}")
    sys.stdout.flush()


def _to_a_developer(settings: Settings) -> bool:
    return settings.environment in ("development", "testing") and sys.stdout.isatty()
