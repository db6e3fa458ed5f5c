"""Describes problems in `[[issuers]]`, `[[users]]` and `[plans.<name>]` by the key as it stands in the file.

Not here: the tables (`tables.py`), flat options (`loading.py`). Rules: pydantic finds a problem, this module words it;
a value is repeated only where the member is no secret.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from narthex.settings.options import accepts
from narthex.settings.tables import SECRET_MEMBERS, IssuerSettings, PlanSettings, UserSettings

TABLES: Final[dict[str, type[BaseModel]]] = {
    "issuers": IssuerSettings,
    "users": UserSettings,
    "plans": PlanSettings,
}
MAX_SHOWN: Final = 60


def table_problem(name: str, source: str, detail: Any) -> str:
    """Word one of pydantic's errors in table `name` as a sentence with its remedy.

    Args:
        name: `issuers`, `users` or `plans`.
        source: where the table was read, as `users in narthex.toml`.
        detail: pydantic's error.
    """
    loc = tuple(detail["loc"][1:])
    file = source.partition(" in ")[2] or source
    if not loc:
        shape = f"[{name}.NAME] tables" if name == "plans" else f"a list of tables: write [[{name}]]"
        return f"{name} in {file} is not {shape}. See docs/settings.md."
    where = f"{_path(name, loc)} in {file}"
    model, field = _field(TABLES[name], loc[1:])
    kind, member = detail["type"], str(loc[-1])
    if kind == "extra_forbidden":
        return f"{where} is not a member of {_called(name, loc)}. {_remedy(model, member)}"
    if kind == "missing":
        return f"{where} is missing. Every {_called(name, loc)} needs it."
    if kind == "model_type":
        return f"{where} is no table. Write its members below [{'[' * (name != 'plans')}{_header(name, loc)}."
    wanted = "an e-mail address" if member == "email" else accepts(field) if field is not None else "a text"
    shown = "wrong" if member in SECRET_MEMBERS.get(name, ()) else _shown(detail["input"])
    return f"{where} is {shown}. Give {wanted.replace('comma-separated list', 'list of texts')}."


def _path(name: str, loc: tuple[Any, ...]) -> str:
    """`users[0].email`, `plans.gold.connections`; the first entry of a list is number 0, as in the other messages."""
    return name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _called(name: str, loc: tuple[Any, ...]) -> str:
    inner = ".claims" if "claims" in loc[1:-1] else ""
    return f"[plans.{loc[0]}]" if name == "plans" else f"[[{name}]]{inner}"


def _header(name: str, loc: tuple[Any, ...]) -> str:
    return f"{_path(name, loc)}]" if name == "plans" else f"{name}]]"


def _field(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model and the field that `loc` ends at; the field is None for a name that the model does not have."""
    field: FieldInfo | None = None
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field is not None else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return model, field


def _remedy(model: type[BaseModel], member: str) -> str:
    close = difflib.get_close_matches(member, model.model_fields, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]}? Rename or remove it."
    return f"Known members are {', '.join(model.model_fields)}."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
