"""Prints the URL of a gateway that starts, and a token to try it with. Not here: logs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from narthex.domain.identity import Identity
from narthex.settings import Settings

if TYPE_CHECKING:
    from narthex.wiring.parts import Parts

TOKEN_TTL_S: Final = 12 * 3600.0  # a working day: the next start prints another


def announce(settings: Settings, urls: Sequence[str], parts: Parts | None) -> None:
    """Print to standard output. A token is printed to a terminal only: output that is kept is a log.

    Args:
        settings: of the gateway.
        urls: of its listeners; the first is shown unless `public_url` is set.
        parts: of the gateway, for a token; None: in other processes.
    """
    url = settings.base_url or urls[0].replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
    if url.startswith("unix:"):  # the public URL is the proxy's
        url = f"http://localhost  (curl --unix-socket {shlex.quote(url.removeprefix('unix:'))})"
    lines = [
        f"narthex is ready ({settings.environment})",
        f"  chat      {url}/",
        f"  socket    {url.replace('http', 'ws', 1)}/ws",
        f"  health    {url}/ws/health",
    ]
    ring = parts.tokens.provider_keys if parts is not None else None
    if parts is not None and parts.verifier is not parts.tokens.verifier:
        lines.append("  tokens    verified by your program's own verifier")
    elif not settings.provider_enabled:
        lines.append("  tokens    from your issuer")
    elif parts is not None and ring is not None and _to_a_developer(settings):
        token = ring.mint(Identity(subject="developer", name="Developer"), ttl_s=TOKEN_TTL_S, now=parts.now())
        lines.append(f"  token     {token}")
        hours = f"{TOKEN_TTL_S / 3600:.0f} h"
        lines.append(f"            for `developer`, {hours}; for another user: narthex token --sub ada")
    else:
        lines.append(f"  token     narthex token --data-dir {shlex.quote(str(settings.data_dir))}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _to_a_developer(settings: Settings) -> bool:
    return settings.environment in ("development", "testing") and sys.stdout.isatty()
