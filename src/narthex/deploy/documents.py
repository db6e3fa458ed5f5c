"""YAML and HCL as trees whose nodes know their line.

Not here: what the keys mean (`readers`). Rules: the extra `deploy` brings the parsers; a document that cannot be parsed
is a ConfigError that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from narthex.deploy.facts import Fact, Place, Repeat
from narthex.errors import ConfigError
from narthex.extras import Need, require


@dataclass
class Tree:
    """A scalar's text, a mapping or a list. A missing node is falsy and has no children.

    Attributes:
        value: text, `dict[str, Tree]`, `list[Tree]`, or None.
        place: of the node.
        repeats: keys that this mapping has twice.
        tag: a tag of the format's own, such as CloudFormation's `!Ref`; empty for plain YAML.
    """

    value: str | dict[str, Tree] | list[Tree] | None
    place: Place
    repeats: list[Repeat] = field(default_factory=list)
    tag: str = ""

    def __bool__(self) -> bool:
        return self.value is not None

    def __getitem__(self, key: str) -> Tree:
        found = self.value.get(key) if isinstance(self.value, dict) else None
        return found if found is not None else Tree(None, self.place)

    def at(self, path: str) -> Tree:
        """The node at `a/b/c`."""
        node = self
        for key in path.split("/"):
            node = node[key]
        return node

    @property
    def text(self) -> str:
        """The scalar's text; empty for anything else."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def items(self) -> list[Tree]:
        """The list's nodes; a single mapping counts as a list of one."""
        if isinstance(self.value, list):
            return self.value
        return [self] if isinstance(self.value, dict) else []

    @property
    def members(self) -> Mapping[str, Tree]:
        """The mapping's nodes."""
        return self.value if isinstance(self.value, dict) else {}

    def fact(self) -> Fact[str]:
        """The scalar and its place."""
        return Fact(self.text, self.place)

    def all_repeats(self) -> Iterator[Repeat]:
        """Keys that are given twice, here and below."""
        yield from self.repeats
        for child in [*self.members.values(), *(self.value if isinstance(self.value, list) else [])]:
            yield from child.all_repeats()


def read_yaml(text: str, file: str) -> list[Tree]:
    """Every document of a YAML (or JSON) text. Raises ConfigError."""
    require(Need("deploy", "Reading YAML"))
    import yaml

    try:
        return [
            _yaml(node, file) for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None
        ]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = Place(file, mark.line + 1 if mark else 0)
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError([f"{where}: this is not YAML ({problem}). Correct it."]) from error


def _yaml(node: Any, file: str) -> Tree:
    place = Place(file, node.start_mark.line + 1)
    tag = node.tag if node.tag.startswith("!") else ""
    if node.id == "scalar":
        null = node.tag.endswith(":null")
        return Tree(None if null else node.value, place, tag=tag)
    if node.id == "sequence":
        return Tree([_yaml(child, file) for child in node.value], place, tag=tag)
    found: dict[str, Tree] = {}
    repeats: list[Repeat] = []
    for key_node, value_node in node.value:
        key, value = str(key_node.value), _yaml(value_node, file)
        value.place = Place(file, key_node.start_mark.line + 1)
        if key == "<<":
            merged: dict[str, Tree] = {}
            for source in value.items:
                merged |= source.members
            found = merged | found
        elif key in found:
            repeats.append(Repeat(key, found[key].fact(), value.fact()))
            found[key] = value
        else:
            found[key] = value
    return Tree(found, place, repeats, tag)


def read_hcl(text: str, file: str) -> Tree:
    """Terraform's language. Blocks become `{type: [{label: {…}}]}`. Raises ConfigError."""
    require(Need("deploy", "Reading Terraform"))
    import hcl2
    from lark.exceptions import LarkError, UnexpectedInput

    try:
        found = hcl2.loads(text)
    except LarkError as error:
        line = error.line if isinstance(error, UnexpectedInput) else 0
        raise ConfigError([f"{Place(file, line)}: this is not HCL. Run: terraform fmt."]) from error
    return _hcl(found, Place(file, 0), text.splitlines())


def _hcl(value: Any, place: Place, lines: list[str]) -> Tree:
    if isinstance(value, dict):
        members = {_unquoted(key): child for key, child in value.items() if not key.startswith("__")}
        return Tree(
            {key: _hcl(child, _line_of(key, place, lines), lines) for key, child in members.items()}, place
        )
    if isinstance(value, list):
        # The blocks of one name, one after the other: each is looked for below the one before.
        found: list[Tree] = []
        key = (
            lines[place.line - 1].split()[0]
            if 0 < place.line <= len(lines) and lines[place.line - 1].split()
            else ""
        )
        for number, child in enumerate(value):
            place = _line_of(key, place, lines) if number and isinstance(child, dict) else place
            found.append(_hcl(child, place, lines))
        return Tree(found, place)
    if isinstance(value, bool):
        return Tree("true" if value else "false", place)
    return Tree(None if value is None else _unquoted(str(value)), place)


def _line_of(key: str, above: Place, lines: list[str]) -> Place:
    """The first line below `above` that begins with this key, or names it as a label: the parser gives no lines."""
    if 0 < above.line <= len(lines) and f' "{key}"' in lines[above.line - 1]:  # a label of this very block
        return above
    for number in range(above.line + 1, len(lines) + 1):
        line = lines[number - 1].lstrip()
        if line.startswith((f"{key} ", f"{key}=", f'"{key}"')) or (
            f' "{key}"' in line and line.endswith("{")
        ):
            return Place(above.file, number)
    return above


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
