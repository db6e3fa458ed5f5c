"""JSON Schemas of the code's own types, for the descriptions of the wire and of the HTTP API.

Not here: the descriptions (`asyncapi`, `openapi`). A Struct becomes a component of its name, with its docstring's first
paragraph as the description. msgspec's own generator cannot show a default that is raw JSON, which the wire's commands
have; otherwise the schemas are the same.
"""

from __future__ import annotations

import inspect as docstrings
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
OBJECT: Final[Schema] = {"type": "object"}
ANY: Final[Schema] = {}
STRINGS: Final[Schema] = {"type": "array", "items": STRING}


def members(
    required: Mapping[str, Any], optional: Mapping[str, Any] | None = None, about: str = ""
) -> Schema:
    """An object with these members; one that is no schema yet is a type, of which `Components.of` makes one."""
    return {
        **({"description": about} if about else {}),
        "type": "object",
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
    }


class Components:
    """Schemas by name, filled by `of`."""

    def __init__(self, prefix: str = "#/components/schemas/") -> None:
        self.found: dict[str, Schema] = {}
        self._prefix = prefix
        self._types: dict[str, type] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type; of a schema, the same with the types in it replaced by theirs."""
        if isinstance(kind, Mapping):
            return {key: self._inside(key, value) for key, value in kind.items()}
        return self._of(inspect.type_info(kind))

    def inline(self, kind: type[msgspec.Struct]) -> Schema:
        """The schema of a Struct, without a component for it."""
        found = inspect.type_info(kind)
        assert isinstance(found, inspect.StructType)
        return self._struct(found)

    def _inside(self, key: str, value: Any) -> Any:
        if key == "properties":
            return {name: self.of(one) for name, one in value.items()}
        if key in ("items", "additionalProperties") and not isinstance(value, bool):
            return self.of(value)
        if key in ("anyOf", "oneOf", "allOf"):
            return [self.of(one) for one in value]
        return value

    def _of(self, kind: inspect.Type) -> Schema:
        match kind:
            case inspect.Metadata():
                return self._of(kind.type) | (kind.extra_json_schema or {})
            case inspect.StructType():
                name = kind.cls.__name__
                if self._types.setdefault(name, kind.cls) is not kind.cls:
                    raise ValueError(f"two types are named {name}")
                if name not in self.found:
                    self.found[name] = {}  # it may contain itself
                    self.found[name] = self._struct(kind)
                return {"$ref": self._prefix + name}
            case inspect.UnionType():
                return {"anyOf": [self._of(one) for one in kind.types]}
            case inspect.ListType() | inspect.VarTupleType():
                return {"type": "array", "items": self._of(kind.item_type), **_bounds(kind, "Items")}
            case inspect.DictType():
                return {"type": "object", "additionalProperties": self._of(kind.value_type)}
            case inspect.StrType():
                return {"type": "string", **_bounds(kind, "Length")}
            case inspect.IntType() | inspect.FloatType():
                named = {"ge": "minimum", "le": "maximum"}
                bounds = {to: getattr(kind, at) for at, to in named.items() if getattr(kind, at) is not None}
                return {"type": "integer" if isinstance(kind, inspect.IntType) else "number", **bounds}
            case inspect.LiteralType():
                return {"enum": list(kind.values)}
            case inspect.EnumType():
                return {"enum": [one.value for one in kind.cls]}
            case inspect.BoolType():
                return BOOLEAN
            case inspect.NoneType():
                return {"type": "null"}
            case inspect.AnyType() | inspect.RawType():
                return ANY
            case inspect.CustomType() if kind.cls is object:
                return ANY
        raise TypeError(f"no schema for {kind}")

    def _struct(self, kind: inspect.StructType) -> Schema:
        properties: dict[str, Schema] = {}
        for field in kind.fields:
            found = self._of(field.type)
            default = field.default
            if (
                default is not msgspec.NODEFAULT
                and not isinstance(default, msgspec.Raw)
                and "$ref" not in found
            ):
                found = found | {"default": msgspec.to_builtins(default)}
            properties[field.encode_name] = found
        return {
            "type": "object",
            "description": summary(kind.cls),
            "required": [field.encode_name for field in kind.fields if field.required],
            "properties": properties,
        }


def _bounds(kind: Any, of: str) -> Schema:
    found = {f"min{of}": kind.min_length, f"max{of}": kind.max_length}
    if isinstance(kind, inspect.StrType):
        found["pattern"] = kind.pattern
    return {name: value for name, value in found.items() if value is not None}


def summary(kind: object) -> str:
    """The first paragraph of a docstring, on one line, with an attribute's list left out."""
    text = docstrings.getdoc(kind) or ""
    return re.sub(r"\s+", " ", text.split("\n\n")[0].split("Attributes:")[0]).strip()
