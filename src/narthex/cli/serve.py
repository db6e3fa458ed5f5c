"""`narthex serve`: the gateway, in the foreground."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

from cyclopts import Parameter

from narthex.cli.flags import NO_FLAGS, SettingsFlags, serving_settings
from narthex.errors import EXIT_FINDINGS, EXIT_OK

EXIT_TERMINATED = 128 + signal.SIGTERM  # as shells do; only before the gateway handles the signal itself


def serve(
    flags: SettingsFlags = NO_FLAGS,
    *,
    reload: Annotated[bool, Parameter(negative=(), help="Start again when a source file changes.")] = False,
) -> int:
    """Serve the gateway until SIGTERM or Ctrl-C.

    Without any option: an embedded broker, store and sign-in under ./narthex-data, a built-in agent, and
    http://127.0.0.1:8000. Every option is also a variable (NARTHEX_PORT, …) and a line of narthex.toml.

    Examples:
        narthex serve
        narthex serve --port 9000 --agent myagents:parrot
        ENVIRONMENT=staging NARTHEX_OIDC_ISSUER=https://id.example.com narthex serve

    Args:
        flags: the options below.
        reload: start again when a source file below the working directory changes; development only.
    """
    if reload:
        from narthex.cli.reload import serve_again_and_again

        settings = flags.settings()
        return serve_again_and_again(sys.argv[1:], settings.environment, settings.data_dir)
    if os.getpid() == 1:  # in a container: the kernel drops a signal for which PID 1 has no handler
        # At once: an exception would be caught by code that loads modules, and nothing is open yet.
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(EXIT_TERMINATED))
    sys.path.insert(0, "")  # `--agent myagents:parrot` finds the module beside where one stands
    settings = serving_settings(flags.given(), flags.config)
    from narthex.wiring.announcement import announce
    from narthex.wiring.start_checks import check_start

    # The parent of several workers runs none of their code; each of them loads the agents itself.
    check_start(settings, agents=settings.workers == 1)
    if settings.workers > 1:
        from narthex.wiring.gateway_worker import GATEWAYS
        from narthex.wiring.supervisor import Supervisor

        orderly = Supervisor(
            settings, flags.given(), flags.config, lambda url: announce(settings, [url], None), GATEWAYS
        ).run()
        return EXIT_OK if orderly else EXIT_FINDINGS
    from narthex.wiring.gateway import GatewayServer

    orderly = GatewayServer(settings).run(lambda urls, parts: announce(settings, urls, parts))
    return EXIT_OK if orderly else EXIT_FINDINGS
