"""nginx configuration: the locations that pass to a server behind.

Rule: a directive is inherited from the block around it; a directive that is nowhere has nginx's default: 60 s, HTTP/1.0
upstream before 1.29.7, no `Upgrade`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from narthex.deploy import quantities
from narthex.deploy.facts import Fact, Hop, Manifest, Place, Repeat

READ_S = 60.0
ADDING = frozenset(
    {"proxy_set_header", "server_name", "listen", "location", "server", "upstream", "include", "map", "if",
     "add_header", "set_real_ip_from", "set", "access_log", "error_log", "return", "log_format", "deny", "allow"}
)  # fmt: skip


@dataclass
class Block:
    """A block: its words, its directives, and the blocks within."""

    words: list[str]
    place: Place
    directives: list[tuple[list[str], Place]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def read(text: str, file: str) -> Manifest:
    """Every location that has a `proxy_pass`."""
    root = parse(text, file)
    found = Manifest()
    for location, inherited in _passing(root, {}):
        hop = Hop(platform="nginx", name=" ".join(location.words), place=location.place)
        idle = [
            _duration(inherited.get(name), location.place)
            for name in ("proxy_read_timeout", "proxy_send_timeout")
        ]
        hop.idle_s = min(idle, key=lambda fact: fact.value)
        headers = [(words, place) for words, place in inherited.get("proxy_set_header", []) if len(words) > 2]
        passed = {words[1].lower() for words, _ in headers}
        version = inherited.get("proxy_http_version")
        http11 = version is not None and version[-1][0][1:2] == ["1.1"]
        hop.upgrade = Fact({"upgrade", "connection"} <= passed and http11, location.place)
        if "ip_hash" in inherited:
            hop.affinity = Fact(True, inherited["ip_hash"][-1][1])
        hop.repeats += _repeats(location)
        found.hops.append(hop)
    return found


Directives = dict[str, list[tuple[list[str], Place]]]


def _passing(block: Block, inherited: Directives) -> Iterator[tuple[Block, Directives]]:
    own: Directives = {}
    for words, place in block.directives:
        own.setdefault(words[0], []).append((words, place))
    for child in block.blocks:
        if child.words[:1] == ["upstream"]:
            own |= {words[0]: [(words, place)] for words, place in child.directives if words[0] == "ip_hash"}
    known = inherited | own
    if "proxy_pass" in own:
        yield block, known
    for child in block.blocks:
        yield from _passing(child, {name: found for name, found in known.items() if name != "proxy_pass"})


def _duration(found: list[tuple[list[str], Place]] | None, place: Place) -> Fact[float]:
    if not found or len(found[-1][0]) < 2:
        return Fact(READ_S, place, written=False)
    words, at = found[-1]
    return Fact(quantities.seconds(words[1]) or READ_S, at)


def _repeats(block: Block) -> Iterator[Repeat]:
    seen: dict[str, Fact[str]] = {}
    for words, place in block.directives:
        name = " ".join(words[:2]) if words[0] == "proxy_set_header" else words[0]
        fact = Fact(" ".join(words[1:]), place)
        if name in seen and (words[0] not in ADDING or words[0] == "proxy_set_header"):
            yield Repeat(name, seen[name], fact)
        seen[name] = fact


def parse(text: str, file: str) -> Block:
    """The blocks of the file."""
    root = Block([], Place(file, 1))
    stack, line = [root], 1
    words: list[str] = []
    start = Place(file, 1)
    for token in re.finditer(
        r"#[^\n]*|\n|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|[{};]|(?:\$\{\w+\}|[^\s{};#])+", text
    ):
        word = token[0]
        if word == "\n":
            line += 1
        elif word.startswith("#"):
            continue
        elif word == "{":
            block = Block(words, start)
            stack[-1].blocks.append(block)
            stack.append(block)
            words = []
        elif word == "}":
            words = []
            if len(stack) > 1:
                stack.pop()
        elif word == ";":
            if words:
                stack[-1].directives.append((words, start))
            words = []
        else:
            start = start if words else Place(file, line)
            words = [*words, word.strip("\"'")]
            line += word.count("\n")
    return root
