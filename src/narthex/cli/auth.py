"""`narthex auth serve`: the embedded provider as a service of its own; `narthex auth hash`: a password's hash."""

from __future__ import annotations

import asyncio
import getpass
import sys
from pathlib import Path

from cyclopts import App

from narthex.cli.flags import LogFormat, LogLevel, serving_settings
from narthex.domain.secrets import equal
from narthex.errors import EXIT_OK, ClientError

DEFAULT_PORT = 8001  # beside a gateway on 8000
MIN_PASSWORD_LENGTH = 8  # NIST SP 800-63B section 5.1.1.2

app = App(name="auth", help="The embedded sign-in provider: run it as a separate service, hash a password.")


@app.command
def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    data_dir: Path | None = None,
    public_url: str | None = None,
    root_path: str | None = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    config: Path | None = None,
) -> int:
    """Serve sign-in, refresh, introspection and keys until SIGTERM or Ctrl-C.

    Gateways use it with NARTHEX_OIDC_ISSUER=<public URL>. Users, allowed origins and the store come from the same
    settings as a gateway's.

    Examples:
        narthex auth serve --port 8001 --data-dir auth-data

    Args:
        host: Address to listen on (development: 127.0.0.1; staging and production: 0.0.0.0).
        port: Port; default 8001.
        data_dir: Directory of users, sessions and signing keys.
        public_url: Its URL as clients see it, without a path; with `root_path` the `iss` of its tokens; default
            http:// + host and port.
        root_path: Path under which clients reach it behind a proxy that removes it, such as /id.
        log_format: json for machines, console for people.
        log_level: Least severe record that is written.
        config: The settings file instead of ./narthex.toml.
    """
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "public_url": public_url,
        "root_path": root_path,
        "log_format": log_format,
        "log_level": log_level,
    }
    settings = serving_settings(flags, config, DEFAULT_PORT)
    from narthex.wiring.auth_service import serve as serve_auth
    from narthex.wiring.start_checks import check_start

    check_start(settings, {"store"}, agents=False)

    serve_auth(settings, on_ready=lambda url: print(f"narthex auth is ready at {url}", flush=True))
    return EXIT_OK


@app.command(name="hash")
def hash_() -> int:
    """Print the argon2id hash of a password, for `password_hash` of a `[[users]]` table.

    Asks for it on a terminal; otherwise reads one line of standard input.

    Examples:
        narthex auth hash
    """
    from narthex.adapters.tokens.passwords import Argon2Passwords

    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if not equal(password, getpass.getpass("Again: ")):
            raise ClientError("password", "The two passwords differ.", "Try again.")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < MIN_PASSWORD_LENGTH:
        raise ClientError(
            "password", f"It has fewer than {MIN_PASSWORD_LENGTH} characters.", "Choose a longer password."
        )
    print(asyncio.run(Argon2Passwords().hash(password)))
    return EXIT_OK
