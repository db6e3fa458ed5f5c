"""HAProxy configuration: the back ends, with what `defaults` gives to them."""

from __future__ import annotations

from narthex.deploy import quantities
from narthex.deploy.facts import Fact, Hop, Manifest, Place, Repeat

Section = dict[str, Fact[str]]


def read(text: str, file: str) -> Manifest:
    """Every `backend` and `listen` of the file."""
    found = Manifest()
    defaults: Section = {}
    current: Section = {}
    hop: Hop | None = None
    pending: list[tuple[Hop, Section]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        place = Place(file, number)
        if words[0] in ("global", "defaults", "frontend", "backend", "listen"):
            hop = None
            if words[0] == "defaults":
                defaults = current = {}
            elif words[0] in ("backend", "listen"):
                hop = Hop(platform="haproxy", name=" ".join(words[1:2]), place=place)
                current = dict(defaults)
                pending.append((hop, current))
            else:
                current = {}
            own: set[str] = set()
            continue
        name = " ".join(words[:2]) if words[0] == "timeout" else words[0]
        fact = Fact(" ".join(words[2:] if words[0] == "timeout" else words[1:]), place)
        if words[0] == "timeout" and name in own and hop is not None:
            hop.repeats.append(Repeat(name, current[name], fact))
        own.add(name)
        current[name] = fact
        if hop is not None and words[0] == "cookie":
            hop.affinity = Fact(True, place)
        if hop is not None and words[0] == "balance" and words[1:2] == ["source"]:
            hop.affinity = Fact(True, place)
        if hop is not None and words[0] == "server" and "proto" in words and "h2" in words:
            hop.http2 = Fact(True, place)
    for hop, section in pending:
        limits = [section.get(name) for name in ("timeout tunnel",)]
        if limits[0] is None:  # without it the idle time-outs of both sides end a tunnel
            limits = [
                section.get("timeout server"),
                section.get("timeout client") or defaults.get("timeout client"),
            ]
        known = [
            Fact(found_s, fact.place)
            for fact in limits
            if fact is not None and (found_s := quantities.seconds(fact.value, unit="ms")) is not None
        ]
        hop.idle_s = min(known, key=lambda fact: fact.value) if known else None
        found.hops.append(hop)
    return found
