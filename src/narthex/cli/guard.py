"""`narthex guard`: admission in front of a WebSocket server in any language."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from narthex.cli.flags import LogFormat, LogLevel, begin_log
from narthex.errors import EXIT_FINDINGS, EXIT_OK


def guard(
    *,
    upstream: str | None = None,
    path: Annotated[list[str] | None, Parameter(consume_multiple=True, negative_iterable=())] = None,
    pass_http: Annotated[bool | None, Parameter(negative=())] = None,
    verify_only: Annotated[bool | None, Parameter(negative=())] = None,
    host: str | None = None,
    port: int | None = None,
    uds: Path | None = None,
    fd: int | None = None,
    root_path: str | None = None,
    workers: int | None = None,
    data_dir: Path | None = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    allow_remote_development: Annotated[bool | None, Parameter(negative=())] = None,
    config: Path | None = None,
) -> int:
    """Guard the WebSockets of another server until SIGTERM or Ctrl-C.

    A handshake is admitted or refused as by `narthex serve`. Of an admitted one the server behind gets the request
    without its credentials and with the user: Narthex-Subject, -Tenant, -Plan, -Test-Run, -Trace-Id, and the same
    signed in Narthex-Assertion (a JWT of 60 s; its key is at /.well-known/jwks.json). Frames pass untouched.
    Revocation, expiry and drain close the socket with their code. Settings are those of `serve`: docs/guard-process.md.

    Examples:
        narthex guard --upstream ws://127.0.0.1:9000
        narthex guard --verify-only
        narthex guard --upstream http://127.0.0.1:3000 --path /ws --pass-http

    Args:
        upstream: The server behind: ws://HOST:PORT, wss://…, http://…; requests keep their path and query.
        path: Paths of its WebSockets (default /ws); `{name}` matches one segment, `*` at the end any rest.
        pass_http: Pass plain HTTP requests to it too, unchecked and with their credentials.
        verify_only: No upstream: only answer proxies that ask /ws/verify (docs/guard-verify.md).
        host: Address to listen on (development: 127.0.0.1; staging and production: 0.0.0.0).
        port: Port; 0 takes a free one.
        uds: Listen on a Unix socket at this path.
        fd: Listen on the socket that the parent process left open as this descriptor.
        root_path: Path under which clients reach this guard behind a proxy that removes it, such as /chat.
        workers: Processes that share the port; each counts its own limits.
        data_dir: Directory of revocations, tickets and signing keys.
        log_format: json for machines, console for people.
        log_level: Least severe record that is written; handshake records are debug.
        allow_remote_development: Let development listen beyond loopback.
        config: The settings file instead of ./narthex.toml.
    """
    flags = {
        "upstream": upstream,
        "upstream_paths": path,
        "pass_http": pass_http,
        "verify_only": verify_only,
        "host": host,
        "port": port,
        "uds": uds,
        "fd": fd,
        "root_path": root_path,
        "workers": workers,
        "data_dir": data_dir,
        "log_format": log_format,
        "log_level": log_level,
        "allow_remote_development": allow_remote_development,
    }
    from narthex.guard.core import guard_settings
    from narthex.guard.process import GUARDS, serve, upstream_of
    from narthex.wiring.start_checks import check_start

    settings = guard_settings(flags, config)
    begin_log(settings)
    upstream_of(settings)
    check_start(settings, {"store", "traces"}, agents=False)

    def ready(urls: list[str]) -> None:
        url = settings.base_url or urls[0].replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
        lines = [f"narthex guard is ready ({settings.environment})"]
        if settings.verify_only:
            lines.append(f"  verify    {url}/ws/verify")
        else:
            lines += [f"  socket    {url.replace('http', 'ws', 1)}{one}" for one in settings.upstream_paths]
            lines.append(f"  upstream  {settings.upstream}")
        lines.append(f"  keys      {url}/.well-known/jwks.json")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    if settings.workers > 1:
        from narthex.wiring.supervisor import Supervisor

        given = {name: value for name, value in flags.items() if value is not None}
        orderly = Supervisor(settings, given, config, lambda one: ready([one]), GUARDS).run()
    else:
        orderly = serve(settings, ready)
    return EXIT_OK if orderly else EXIT_FINDINGS
