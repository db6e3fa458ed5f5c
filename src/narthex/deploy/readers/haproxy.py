"""HAProxy configuration: the back ends, with what `defaults` gives to them."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.deploy import quantities
from narthex.deploy.facts import Fact, Hop, Manifest, Place, Repeat

Line = tuple[list[str], Place]
Options = dict[str, Fact[str]]
SECTIONS = ("global", "defaults", "frontend", "backend", "listen")


def read(text: str, file: str) -> Manifest:
    """Every `backend` and `listen` of the file."""
    found = Manifest()
    defaults: Options = {}
    for (title, place), lines in _sections(text, file):
        if title[0] == "defaults":
            defaults = dict(_option(*line) for line in lines)
        elif title[0] in ("backend", "listen"):
            hop = Hop(platform="haproxy", name=" ".join(title[1:2]), place=place)
            _read_options(hop, lines, defaults)
            found.hops.append(hop)
    return found


def _sections(text: str, file: str) -> Iterator[tuple[Line, list[Line]]]:
    """The first line of each section, and the lines below it."""
    found: list[tuple[Line, list[Line]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if words and words[0] in SECTIONS:
            found.append(((words, Place(file, number)), []))
        elif words and found:
            found[-1][1].append((words, Place(file, number)))
    yield from found


def _read_options(hop: Hop, lines: list[Line], defaults: Options) -> None:
    own: Options = {}
    for words, place in lines:
        name, fact = _option(words, place)
        if words[0] == "timeout" and name in own:
            hop.repeats.append(Repeat(name, own[name], fact))
        own[name] = fact
        if words[0] == "cookie" or words[:2] == ["balance", "source"]:
            hop.affinity = Fact(True, place)
        if words[0] == "server" and {"proto", "h2"} <= set(words):
            hop.http2 = Fact(True, place)
    hop.idle_s = _idle(defaults | own)


def _option(words: list[str], place: Place) -> tuple[str, Fact[str]]:
    """The name of an option and its value; each `timeout` is an option of its own."""
    length = 2 if words[0] == "timeout" else 1
    return " ".join(words[:length]), Fact(" ".join(words[length:]), place)


def _idle(options: Options) -> Fact[float] | None:
    """The end of an idle tunnel: without `timeout tunnel` the idle time-outs of both sides end it."""
    tunnel = "timeout tunnel" in options
    names = ("timeout tunnel",) if tunnel else ("timeout server", "timeout client")
    known = [
        Fact(found_s, options[name].place)
        for name in names
        if name in options and (found_s := quantities.seconds(options[name].value, unit="ms")) is not None
    ]
    return min(known, key=lambda fact: fact.value, default=None)
