"""Opens the sockets that a server process listens on: TCP addresses, a Unix socket, or one that the parent opened.

Not here: accepting connections (`server`). Rules: a returned socket is bound and not yet listening; none stays open
when one of several fails; a file that belongs to a running server is never taken over.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from narthex.domain.environment import is_loopback
from narthex.errors import ConfigError

UNIX_MODE: Final = 0o666  # as open to this machine's users as a port on loopback is


def listen(
    host: str, port: int, *, reuse_port: bool = False, send_buffer_bytes: int = 0
) -> list[socket.socket]:
    """Bind every address that `host` names.

    Args:
        host: name or address; `localhost` binds to both families if there are two, `::` to every address of both.
        port: 0 picks a free one, the same for every address.
        reuse_port: share the port with other processes (workers); the kernel spreads connections.
        send_buffer_bytes: `SO_SNDBUF`, which accepted sockets inherit; 0 leaves it.

    Raises:
        ConfigError: no address could be bound.
    """
    bound: list[socket.socket] = []
    problem = "no address"
    hosts = (host, "0.0.0.0") if host == "::" else (host,)  # noqa: S104 - as asked for
    try:
        found = [
            info
            for name in hosts
            for info in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ]
    except OSError as error:
        raise ConfigError([f"The host {host} does not resolve ({error}). Give an address."]) from error
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listener = socket.socket(family, kind, protocol)
        try:
            _prepare(listener, reuse_port=reuse_port, send_buffer_bytes=send_buffer_bytes)
            chosen = bound[0].getsockname()[1] if bound and port == 0 else port
            listener.bind((address[0], chosen, *address[2:]))
        except OSError as error:
            listener.close()
            problem = os.strerror(error.errno or 0)
            if error.errno == errno.EADDRINUSE and host == "::":
                _close(bound)  # otherwise another program would serve half of the addresses
                break
        else:
            bound.append(listener)
    if not bound:
        raise ConfigError(
            [f"Cannot listen on {host}:{port} ({problem}). Free the port, or choose another host or port."]
        )
    return bound


def listen_unix(path: Path, *, send_buffer_bytes: int = 0) -> list[socket.socket]:
    """Bind a Unix socket at `path`, also where a server that died left its file.

    Raises:
        ConfigError: the path holds something else or a server that answers, or cannot be bound.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.setblocking(False)
        _set_send_buffer(listener, send_buffer_bytes)
        listener.bind(str(path))
        path.chmod(UNIX_MODE)
    except (OSError, ConfigError) as error:
        listener.close()
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            [f"Cannot listen on {path} ({error.strerror or error}). Give another path."]
        ) from None
    return [listener]


def inherit(descriptor: int, *, loopback_only: bool, send_buffer_bytes: int = 0) -> list[socket.socket]:
    """The socket that the parent process opened and left open as `descriptor` (systemd, a process manager).

    Args:
        descriptor: its number.
        loopback_only: refuse a socket that other machines reach.
        send_buffer_bytes: as for `listen`.

    Raises:
        ConfigError: it is no stream socket of a server, or other machines reach it and must not.
    """
    try:
        listener = socket.socket(fileno=descriptor)
        name = listener.getsockname()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            [f"--fd {descriptor} is not a socket ({reason}). Pass a bound socket's number."]
        ) from None
    if listener.type != socket.SOCK_STREAM or not name:
        listener.detach()
        raise ConfigError([f"--fd {descriptor} is not a bound stream socket. Pass one."])
    if loopback_only and isinstance(name, tuple) and not is_loopback(name[0]):
        listener.detach()
        problem = (
            f"--fd {descriptor} listens on {name[0]}, beyond loopback, and this environment must not. Set ENVIRONMENT "
            "to staging or production, or give --allow-remote-development."
        )
        raise ConfigError([problem])
    listener.setblocking(False)
    _set_send_buffer(listener, send_buffer_bytes)
    return [listener]


def url_of(host: str, port: int) -> str:
    """The URL of an address; an IPv6 address stands in brackets (RFC 3986 section 3.2.2)."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def url_of_listener(listener: socket.socket) -> str:
    """`http://host:port`, or `unix:/path`."""
    name = listener.getsockname()
    return url_of(*name[:2]) if isinstance(name, tuple) else f"unix:{name}"


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError([f"{path} exists and is not a socket. Remove it, or give another path."])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise ConfigError([f"A server already listens on {path}. Stop it, or give another path."])


def _close(listeners: list[socket.socket]) -> None:
    while listeners:
        listeners.pop().close()


def _prepare(listener: socket.socket, *, reuse_port: bool, send_buffer_bytes: int) -> None:
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    _set_send_buffer(listener, send_buffer_bytes)


def _set_send_buffer(listener: socket.socket, size: int) -> None:
    if size:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
