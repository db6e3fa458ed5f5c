"""`narthex worker`: runs agents apart from the gateways, in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

from narthex.cli.flags import Agents, LogFormat, LogLevel, serving_settings
from narthex.errors import EXIT_OK

DEFAULT_PORT = 8002  # beside a gateway on 8000 and an auth service on 8001


def worker(
    *,
    host: str | None = None,
    port: int | None = None,
    agent: Agents = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    config: Path | None = None,
) -> int:
    """Run agents until SIGTERM or Ctrl-C: runs that gateways with NARTHEX_RUN_AGENTS=0 accept, and any queued run.

    It needs the gateways' NARTHEX_BROKER_URL and NARTHEX_STORE_URL and the same agents. Its port answers /livez,
    /readyz and /metrics. Start as many as you like: they share the work, fairly between tenants.

    Examples:
        narthex worker --agent myagents:parrot

    Args:
        host: Address to listen on (development: 127.0.0.1; staging and production: 0.0.0.0).
        port: Port; default 8002; 0 takes a free one.
        agent: `module:function`, `module:agent`, `agui+https://…` or `openai+http://…#model`; repeatable.
        log_format: json for machines, console for people.
        log_level: Least severe record that is written.
        config: The settings file instead of ./narthex.toml.
    """
    flags = {"host": host, "port": port, "agents": agent, "log_format": log_format, "log_level": log_level}
    sys.path.insert(0, "")  # as `serve`: `--agent myagents:parrot` finds the module beside where one stands
    settings = serving_settings(flags, config, DEFAULT_PORT)
    from narthex.wiring.agent_worker import serve
    from narthex.wiring.start_checks import check_start

    check_start(settings)

    serve(settings, on_ready=lambda url: print(f"narthex worker is ready at {url}", flush=True))
    return EXIT_OK
