"""Declares one option: its variables, its section, whether it is a secret, and the values it accepts.

The options themselves are in `model.py`; reading them is `sources.py`'s. Rules: an option's field name is its
name in `narthex.toml`, `NARTHEX_` + that name in upper case its variable, `--` + that name with hyphens its
flag. A secret's value is a `SecretStr`, may also come from `<variable>_FILE`, and is never shown.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo

PREFIX: Final = "NARTHEX_"


class OptionFacts(NamedTuple):
    """Facts about an option besides its type.

    Attributes:
        variables: environment variables, the first one wins.
        fallback: another program's variable that many platforms set; it counts where nothing of narthex's own is set,
            the file included. Empty when there is none.
        secret: never shown; `_FILE` variants and Secret Manager names serve.
        url: may hold a password: shown without its user part, treated as a secret otherwise.
        flag: the command line's name, empty when there is none.
        default_text: the default in words, where the value alone is not clear.
        only_environment: set by an environment variable only: neither the file nor a flag may decide it.
        section: heading in docs/settings.md.
    """

    variables: tuple[str, ...] = ()
    secret: bool = False
    url: bool = False
    flag: str = ""
    default_text: str = ""
    only_environment: bool = False
    fallback: str = ""
    section: str = ""


def option(
    default: Any,
    description: str,
    *,
    variables: tuple[str, ...] = (),
    secret: bool = False,
    url: bool = False,
    flag: str = "",
    default_text: str = "",
    only_environment: bool = False,
    fallback: str = "",
    **constraints: Any,
) -> Any:
    """Declare an option. `constraints` are pydantic's (`ge`, `le`, `min_length` …).

    `variables` come after the `NARTHEX_` name that every option has; with `only_environment` they replace it.
    """
    declared = OptionFacts(variables, secret, url, flag, default_text, only_environment, fallback)
    return Field(
        default,
        description=description,
        validate_default=False,
        json_schema_extra=declared._asdict(),
        **constraints,
    )


def facts(name: str, field: FieldInfo, section: str = "") -> OptionFacts:
    """The facts of a declared option `name`."""
    extra = field.json_schema_extra
    declared = OptionFacts(**extra) if isinstance(extra, dict) else OptionFacts()  # type: ignore[arg-type]
    own = () if declared.only_environment else (PREFIX + name.upper(),)
    return declared._replace(variables=(*own, *declared.variables), section=section)


def _split(value: object) -> object:
    """`a, b` → `["a", "b"]`; anything else is left to pydantic."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _strip_secret(value: object) -> object:
    """Strip outer white space: HTTP strips it from header values, so a key that keeps it could never match."""
    return value.strip() if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list: comma-separated in a variable, an array in the file, a repeated flag."""

Secret = Annotated[SecretStr, BeforeValidator(_strip_secret)]
"""A secret; empty means not set."""


def accepts(field: FieldInfo) -> str:
    """The accepted values as the end of a sentence that begins with "Give": "a whole number from 1 to 64"."""
    return _accepts(field.annotation, _bounds(field))


def _accepts(annotation: Any, bounds: tuple[str, str]) -> str:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is Union:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
        return _accepts(annotation, bounds)
    low, high = bounds
    span = f" from {low} to {high}" if low and high else f" of at least {low}" if low else ""
    if annotation is bool:
        return "1 (on) or 0 (off)"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if annotation is int:
        return f"a whole number{span}"
    if annotation is float:
        return f"a number{span}"
    if get_origin(annotation) is tuple:
        return "a comma-separated list"
    return "a text"


def _bounds(field: FieldInfo) -> tuple[str, str]:
    low = high = ""
    for part in field.metadata:
        low = str(getattr(part, "ge", low))
        high = str(getattr(part, "le", high))
    return low, high
