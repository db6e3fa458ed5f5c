"""The knowledge base: the meaning of each failure signature, refusal and number. The prose is data beside this file.

Not here: recognising a signature (`diagnosis`). Rules: every entry has a cause, a fix and a way to confirm it; a
code names one thing.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from narthex.domain.refusals import TABLE

Sure = Literal["certain", "likely", "possible"]


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One failure signature; the fields are described in `signatures.toml`."""

    code: str
    name: str
    says: str
    seen: str
    whys: tuple[str, ...]
    fix: tuple[str, ...]
    confirm: str
    sure: Sure
    number: int = 0
    recalled: bool = False


class RefusalWhy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a narthex refuses with a code of `domain.refusals.TABLE`, which has its title and remedy."""

    code: str
    whys: tuple[str, ...]
    fix: tuple[str, ...]


class NumberWhy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The meaning of a close code or an HTTP status to the client that saw it.

    Attributes:
        kind: `close` or `http`.
        see: signatures and refusals that tell the causes apart, by code.
    """

    kind: Literal["close", "http"]
    number: int
    name: str
    whys: tuple[str, ...]
    fix: tuple[str, ...]
    see: tuple[str, ...]


@cache
def signatures() -> dict[str, Signature]:
    """All signatures by code, in the order of the procedure."""
    found = msgspec.convert(_read("signatures.toml")["signature"], list[Signature])
    return {entry.code: entry for entry in found}


@cache
def refusal_whys() -> dict[str, RefusalWhy]:
    """The causes of each refusal by code, in the order of the table."""
    found = msgspec.convert(_read("refusals.toml")["refusal"], list[RefusalWhy])
    by_code = {entry.code: entry for entry in found}
    return {code: by_code[code] for code in TABLE if code in by_code}


@cache
def numbers() -> dict[int, NumberWhy]:
    """Close codes and HTTP statuses by number, in the order of the numbers."""
    found = msgspec.convert(_read("codes.toml")["code"], list[NumberWhy])
    return {entry.number: entry for entry in sorted(found, key=lambda entry: entry.number)}


def _read(name: str) -> dict[str, object]:
    return tomllib.loads(files("narthex.doctor").joinpath(name).read_text(encoding="utf-8"))
