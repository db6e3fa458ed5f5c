"""Reads values from flags, environment variables and `narthex.toml`, and resolves the names of secrets.

Not here: types and bounds (`groups.py`), rules between options (`rules.py`). Rules: every problem is collected,
none is raised; a problem names the variable, flag or key that was set, and never a secret's value; an empty
variable counts as not set.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from narthex.adapters.secrets.file import read_file
from narthex.adapters.secrets.value import SecretReader, read_value
from narthex.errors import ConfigError
from narthex.extras import ExtraMissing, Need
from narthex.settings.groups import option_fields
from narthex.settings.options import PREFIX, OptionFacts, facts
from narthex.settings.tables import SECRET_MEMBERS

DEFAULT_FILE: Final = Path("narthex.toml")
FILE_SUFFIX: Final = "_FILE"
FILE_VARIABLE: Final = "NARTHEX_CONFIG"
OTHER_VARIABLES: Final = frozenset(
    {
        *(FILE_VARIABLE, "NARTHEX_TOKEN", "NARTHEX_URL", "NARTHEX_E2E_BASE_URL", "NARTHEX_CI_OIDC_TOKEN"),
        "NARTHEX_SKIP_WEB_BUILD",
    }
)
"""Variables of the command line's client side and of the build; they are no settings of the gateway."""
TEST_PREFIX: Final = "NARTHEX_TEST_"
# Kubernetes sets NARTHEX_SERVICE_HOST, NARTHEX_PORT=tcp://… and NARTHEX_PORT_8000_TCP_ADDR for a Service that
# is called narthex, and the same for narthex-anything: they are the platform's, not the operator's.
_SERVICE_LINK: Final = re.compile(
    r"^NARTHEX_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$"
)
_SERVICE_LINK_URL: Final = re.compile(r"^(tcp|udp|sctp)://")


class Values:
    """Values by option, the source of each, and the problems found while they were read."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.problems: list[str] = []
        self.broken: set[str] = set()
        self.needs: list[Need] = []

    def put(self, name: str, value: Any, source: str) -> None:
        """Take a value unless a stronger source gave one; call from the strongest source to the weakest."""
        if name not in self.sources:
            self.values[name] = value
            self.sources[name] = source

    def fail(self, name: str, source: str, problem: str) -> None:
        """Note that option `name` was given and cannot be used; weaker sources must not step in."""
        self.problems.append(problem)
        self._break(name, source)

    def unreadable(self, name: str, source: str, fault: ConfigError) -> None:
        """Note that the secret of option `name` cannot be read."""
        self.note(source, fault)
        self._break(name, source)

    def note(self, source: str, fault: ConfigError) -> None:
        """Keep the reason why a secret cannot be read. `load` reports missing extras together."""
        if isinstance(fault, ExtraMissing):
            self.needs.append(Need(fault.need.extra, source))
        else:
            self.problems.append(f"{source}: {fault.problems[0]}")

    def _break(self, name: str, source: str) -> None:
        self.broken.add(name)
        self.sources.setdefault(name, source)
        self.values.pop(name, None)


def collect(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None,
    gcp: SecretReader | None = None,
) -> Values:
    """Read every source, the strongest first: flags, environment, file."""
    found = Values()
    table = {name: facts(name, field, section) for name, (section, field) in option_fields().items()}
    _from_flags(found, table, flags)
    _from_environment(found, table, environ, gcp)
    _from_file(found, table, environ, file, gcp)
    return found


def _from_flags(found: Values, table: Mapping[str, OptionFacts], flags: Mapping[str, Any]) -> None:
    for name, value in flags.items():
        if value is None or value in ((), []):
            continue
        if name not in table or table[name].only_environment:
            found.problems.append(f"{name} cannot be given as a flag. Set its environment variable.")
            continue
        found.put(name, value, table[name].flag or "--" + name.replace("_", "-"))


def _from_environment(
    found: Values, table: Mapping[str, OptionFacts], environ: Mapping[str, str], gcp: SecretReader | None
) -> None:
    known: set[str] = set()
    for name, option in table.items():
        for variable in option.variables:
            known.add(variable)
            value = environ.get(variable, "")
            if _SERVICE_LINK_URL.match(value) and variable.endswith("_PORT"):
                continue
            if option.secret or option.url:
                known.add(variable + FILE_SUFFIX)
                _secret_variable(found, name, variable, environ, gcp)
            elif value:
                found.put(name, value, variable)
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known and not _foreign(variable, environ):
            found.problems.append(f"{variable} is no setting of narthex.{_did_you_mean(variable, known)}")


def _secret_variable(
    found: Values, name: str, variable: str, environ: Mapping[str, str], gcp: SecretReader | None
) -> None:
    value = environ.get(variable, "").strip()
    path = environ.get(variable + FILE_SUFFIX, "").strip()
    if value and path:
        both = f"{variable} and {variable}{FILE_SUFFIX} are both set. Unset one of them."
        found.fail(name, variable, both)
        return
    source = variable + FILE_SUFFIX if path else variable
    if name in found.sources or not (value or path):
        return
    try:
        secret = read_file(Path(path)) if path else read_value(value, gcp)
    except ConfigError as error:
        found.unreadable(name, source, error)
        return
    found.put(name, secret, source)


def _foreign(variable: str, environ: Mapping[str, str]) -> bool:
    if variable in OTHER_VARIABLES or variable.startswith(TEST_PREFIX):
        return True
    on_kubernetes = bool(environ.get("KUBERNETES_SERVICE_HOST"))
    linked = _SERVICE_LINK.match(variable) or _SERVICE_LINK_URL.match(environ[variable])
    return on_kubernetes and linked is not None


def _did_you_mean(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]}? Rename or unset it."
    return " Unset it; docs/settings.md lists every setting."


def _from_file(
    found: Values,
    table: Mapping[str, OptionFacts],
    environ: Mapping[str, str],
    file: Path | None,
    gcp: SecretReader | None,
) -> None:
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    path = named or DEFAULT_FILE
    if named is None and not path.is_file():
        return
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        found.problems.append(f"The settings file {path} cannot be read ({reason}). Fix its path or rights.")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        where = re.search(r"\(at .*\)$", str(error))  # the place only: the text may quote a secret
        found.problems.append(
            f"The settings file {path} is no TOML {where[0] if where else ''}. Mend it at that place."
        )
        return
    known = {name for name, option in table.items() if not option.only_environment}
    known |= {name + "_file" for name, option in table.items() if option.secret or option.url}
    known |= {"issuers", "users", "plans"}
    for key, value in data.items():
        if key in known:
            _file_entry(found, table, path, key, value, gcp)
        elif key in table:
            variable = table[key].variables[0]
            found.problems.append(f"{key} cannot stand in {path}. Set the variable {variable}.")
        else:
            found.problems.append(f"{key} in {path} is no setting of narthex.{_did_you_mean(key, known)}")


def _file_entry(
    found: Values,
    table: Mapping[str, OptionFacts],
    path: Path,
    key: str,
    value: Any,
    gcp: SecretReader | None,
) -> None:
    name = key if key in table else key.removesuffix("_file")
    source = f"{key} in {path}"
    if key in SECRET_MEMBERS:
        if isinstance(value, list):  # validation refuses a value that is not a list
            value = [
                _secret_members(found, path, key, index, entry, gcp) for index, entry in enumerate(value)
            ]
        found.put(key, value, source)
    elif name not in table:
        found.put(key, value, source)
    elif name not in found.sources:
        is_secret = table[name].secret or table[name].url
        try:
            if name != key:
                value = read_file(path.parent / str(value))
            elif is_secret and isinstance(value, str):
                value = read_value(value, gcp)
        except ConfigError as error:
            found.unreadable(name, source, error)
            return
        if value != "":
            found.put(name, value, source)


def _secret_members(
    found: Values, path: Path, key: str, index: int, entry: Any, gcp: SecretReader | None
) -> Any:
    """The entry of `[[key]]` with its `<member>_file` and Secret Manager names resolved."""
    if not isinstance(entry, dict):
        return entry
    resolved = dict(entry)
    for member in SECRET_MEMBERS[key]:
        reference = resolved.pop(f"{member}_file", None)
        value = resolved.get(member)
        where = f"{key}[{index}].{member} in {path}"
        if reference is not None and value is not None:
            found.fail(key, where, f"{where} and its _file twin are both set. Remove one of them.")
            continue
        try:
            if reference is not None:
                resolved[member] = read_file(path.parent / str(reference))
            elif isinstance(value, str):
                resolved[member] = read_value(value, gcp)
        except ConfigError as error:
            found.note(where, error)
            found.broken.add(key)
            resolved.pop(member, None)
    return resolved
