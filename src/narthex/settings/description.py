"""Renders settings: rows for `narthex check`, and docs/settings.md.

Rules: a secret shows as "set" or "not set", an engine's URL without its user part; both outputs come from the
model, so they cannot go stale (a test compares the page).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from narthex.domain import engine_urls
from narthex.settings.groups import option_fields
from narthex.settings.model import Settings
from narthex.settings.options import OptionFacts, accepts, facts
from narthex.settings.tables import Claims, IssuerSettings, PlanSettings, UserSettings

_INTRO: Final = """\
# Settings

Every option can be set in these places; the first one wins:

1. a flag of `narthex serve` (where the table names one),
2. an environment variable: `NARTHEX_` and the option's name in upper case,
3. the file `narthex.toml` (in the working directory, or where `NARTHEX_CONFIG` points),
4. a variable of other programs that many platforms set (`LOG_LEVEL`, `FORWARDED_ALLOW_IPS`; the table names it last),
5. the default.

`--env-file FILE`, which every command takes, reads variables from a file of lines `NAME=value`; the environment's own
win.

All settings are checked in the parent process before a port is opened. All problems are reported at once, each with its
remedy, and the process exits 78. A variable that begins with `NARTHEX_` and is not a setting is a problem too: it
is nearly always misspelled. An empty variable counts as not set. `narthex check` prints the effective settings.

A **secret** can be the value itself, a file named by the variable with `_FILE` behind it (in the file: `_file`),
or a Google Secret Manager name `gcp-secret://projects/P/secrets/S/versions/V` (install `narthex[gcp]`); without a
version it is the latest. Secrets of other managers (AWS, Vault) come as files: their agents and CSI drivers write them.
Files and latest versions are looked at every `secrets_refresh_s`: a renewed admin key, metrics token, status token or
end-to-end key counts from then on, in each process; of any other the log says that it counts from the next start. A
source that cannot be read at the start ends it with 78; later the old secret stays, and the log says why.
No secret's value appears in an error, a log, a metric or a health answer.

Lists are comma-separated in a variable and arrays in the file. `ENVIRONMENT` and the five end-to-end variables
can only be set in the environment.

This page is generated from `src/narthex/settings/groups.py`: `python -m tests.check --write-docs`.
"""


class SettingRow(NamedTuple):
    """One line of `narthex check`.

    Attributes:
        value: as text; "set" or "not set" for a secret.
        source: `default`, a variable, a flag, the file, or the setting that the value was derived from.
    """

    section: str
    name: str
    variable: str
    value: str
    source: str


def describe(settings: Settings) -> list[SettingRow]:
    """Every option in the order of the documentation, then the file's tables if there are any."""
    rows: list[SettingRow] = []
    for name, (section, field) in option_fields().items():
        known = facts(name, field, section)
        found = getattr(settings, name)
        value = "none" if found == () and field.default is None else _shown(found, known)
        rows.append(SettingRow(section, name, known.variables[0], value, settings.source(name)))
    for name in ("issuers", "users", "plans"):
        table = getattr(settings, name)
        if len(table) > 0:
            rows.append(SettingRow("Tables", name, "", f"{len(table)} configured", settings.source(name)))
    return rows


def _shown(value: Any, known: OptionFacts) -> str:
    if isinstance(value, SecretStr) and known.url:
        return engine_urls.shown(value.get_secret_value())
    if known.secret:
        return "set" if value else "not set"
    if value is None or value in ("", ()):
        return known.default_text.replace("`", "") or "not set"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def render_docs() -> str:
    """The text of docs/settings.md."""
    lines = [_INTRO]
    section = ""
    for name, (of, field) in option_fields().items():
        if of != section:
            section = of
            lines += [
                f"\n## {section}\n",
                "| option | variable · flag | accepts | default | what it does |",
                "| --- | --- | --- | --- | --- |",
            ]
        lines.append(_docs_row(name, facts(name, field, of), field))
    lines.append(_TABLES_INTRO)
    for title, model in (
        ("[[issuers]]", IssuerSettings),
        ("[issuers.claims]", Claims),
        ("[[users]]", UserSettings),
        ("[plans.NAME]", PlanSettings),
    ):
        lines += [f"\n### `{title}`\n", "| member | default |", "| --- | --- |"]
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else _default(field)
            lines.append(f"| `{name}` | {default} |")
    return "\n".join(lines) + "\n"


_TABLES_INTRO: Final = """
## Tables of the file

```toml
allowed_origins = ["https://app.example.com"]

[[issuers]]
name = "google"
discovery = "https://accounts.google.com"
audience = ["chat"]

[issuers.claims]
tenant = "hd"

[[users]]
email = "ada@example.com"
password_hash_file = "ada.hash"
plan = "early"

[plans.free]
connections = 5
```

Each issuer has exactly one of `secret`, `public_key`, `jwks_url`, `discovery` and `introspection_url`. A `secret`,
`public_key`, `introspection_client_secret` or `password_hash` may be given as `…_file`, relative to `narthex.toml`."""


def _docs_row(name: str, known: OptionFacts, field: FieldInfo) -> str:
    where = " · ".join(f"`{part}`" for part in (*known.variables, known.flag, known.fallback) if part)
    kind = "a secret" if known.secret else accepts(field).removeprefix("a ").removeprefix("an ")
    default = known.default_text or _default(field)
    return f"| `{name}` | {where} | {kind} | {default} | {field.description} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ((), ""):
        return "not set"
    if isinstance(value, Claims):
        return "below"
    return _text(value) if isinstance(value, bool) else f"`{_text(value)}`"
