"""Caddyfiles: every `reverse_proxy`.

Caddy passes upgrades by itself, and a tunnel has no idle time-out; `stream_timeout` is the longest life of one, and
with `versions h2c` it sends HTTP/2 to the server behind.
"""

from __future__ import annotations

from narthex.deploy import quantities
from narthex.deploy.facts import Fact, Hop, Manifest, Place, Repeat

AFFINE = ("ip_hash", "client_ip_hash", "cookie", "uri_hash", "header")


def read(text: str, file: str) -> Manifest:
    """Every `reverse_proxy` of the file."""
    found = Manifest()
    hop: Hop | None = None
    depth, since = 0, 0
    seen: dict[str, Fact[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        place = Place(file, number)
        if words[:1] == ["reverse_proxy"]:
            hop = Hop(platform="caddy", name=" ".join(word for word in words[1:] if word != "{"), place=place)
            hop.upgrade = Fact(True, place, written=False)
            found.hops.append(hop)
            since, seen = depth, {}
        elif hop is not None and words:
            _option(hop, words, place, seen)
        depth += words.count("{") - words.count("}")
        if hop is not None and depth <= since:
            hop = None
    return found


def _option(hop: Hop, words: list[str], place: Place, seen: dict[str, Fact[str]]) -> None:
    name, value = words[0], " ".join(words[1:])
    fact = Fact(value, place)
    if name in seen and name in ("stream_timeout", "stream_close_delay", "flush_interval", "lb_policy"):
        hop.repeats.append(Repeat(name, seen[name], fact))
    seen[name] = fact
    if name == "stream_timeout" and (life := quantities.seconds(value)):  # 0: none
        hop.life_s = Fact(life, place)
    elif name in ("read_timeout", "write_timeout") and (idle := quantities.seconds(value)) is not None:
        hop.idle_s = Fact(idle, place)
    elif name == "lb_policy":
        hop.affinity = Fact(words[1] in AFFINE, place)
    elif name == "versions":
        hop.http2 = Fact("1.1" not in words, place)
    elif name == "header_up" and words[1:2] in (["-Upgrade"], ["-Connection"]):
        hop.upgrade = Fact(False, place)
