"""The table of commands: name, module and one line of help of each. Imports no command.

Not here: running them (`main.py`). Rules: one command, one file; the target is a function or a cyclopts `App`.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class CliCommand(NamedTuple):
    """One command: `target` is `module:attribute`."""

    target: str
    help: str


COMMANDS: Final[dict[str, CliCommand]] = {
    "serve": CliCommand("narthex.cli.serve:serve", "Start the gateway."),
    "guard": CliCommand("narthex.cli.guard:guard", "Guard the WebSockets of another server."),
    "check": CliCommand(
        "narthex.cli.check:check", "Show what serve would do with these settings, without starting it."
    ),
    "token": CliCommand("narthex.cli.token:app", "Mint a token, or inspect one."),
    "keys": CliCommand("narthex.cli.keys:app", "Signing keys: list, generate, rotate."),
    "doctor": CliCommand("narthex.cli.doctor:doctor", "Find out why a WebSocket fails, on any server."),
    "gate": CliCommand("narthex.cli.gate:gate", "Check a deployed gateway before it takes traffic."),
    "probe": CliCommand("narthex.cli.probe:probe", "Check a gateway repeatedly, as a canary."),
    "status": CliCommand("narthex.cli.status:app", "Serve the status page alone, or write it as files."),
    "incident": CliCommand(
        "narthex.cli.incident:app", "Open, update and resolve incidents, schedule maintenance."
    ),
    "test": CliCommand(
        "narthex.cli.test:test", "Run the end-to-end suite against local, staging or production."
    ),
    "auth": CliCommand("narthex.cli.auth:app", "Serve the sign-in provider alone, or hash a password."),
    "bench": CliCommand("narthex.cli.bench:bench", "Measure the cost of handshakes, messages and sockets."),
    "worker": CliCommand("narthex.cli.worker:worker", "Run agents in processes separate from the gateways."),
    "deploy": CliCommand(
        "narthex.cli.deploy:app", "Write the manifests of a deployment from these settings."
    ),
    "alerts": CliCommand("narthex.cli.alerts:app", "Alert rules for Prometheus, with your own thresholds."),
    "top": CliCommand("narthex.cli.top:top", "Watch all processes of a gateway in the terminal."),
    "show": CliCommand(
        "narthex.cli.show:app",
        "Print what the dashboard shows: figures, refusals, audits, tests, performance.",
    ),
    "connections": CliCommand("narthex.cli.connections:app", "List live connections, or close them."),
    "trace": CliCommand("narthex.cli.trace:trace", "Watch what one user sends and receives."),
    "drain": CliCommand("narthex.cli.drain:drain", "Drain and stop an instance, as SIGTERM does."),
    "completion": CliCommand("narthex.cli.completion:completion", "Print the shell completion script."),
}
"""In the order of `narthex --help`."""


def overview(version: str) -> str:
    """The text of `narthex --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"narthex {version}: an authenticated WebSocket gateway for AI-agent chat",
            "",
            "Usage: narthex COMMAND [OPTIONS]",
            "",
            "Commands:",
            *lines,
            "",
            "narthex COMMAND --help describes a command. Settings also come from NARTHEX_… variables and narthex.toml",
            "(docs/settings.md); every command takes --env-file FILE, which sets variables that are not set.",
            "Exit codes: 0 success, 1 findings or failures, 2 usage, 69 target unreachable, 70 bug, 78 configuration.",
        ]
    )
