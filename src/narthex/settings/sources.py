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
from narthex.adapters.secrets.gcp import GCP_SCHEME
from narthex.adapters.secrets.value import SecretReader, read_value
from narthex.errors import ConfigError
from narthex.extras import ExtraMissing, Need
from narthex.settings.groups import option_fields
from narthex.settings.options import PREFIX, facts
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
    """Values by option, the source of each, and the problems found while they were read.

    Args:
        environ: the process's environment.
        gcp: reads `gcp-secret://` names.
    """

    def __init__(self, environ: Mapping[str, str], gcp: SecretReader | None) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.problems: list[str] = []
        self.broken: set[str] = set()
        self.needs: list[Need] = []
        self.referenced: set[str] = set()
        self._environ = environ
        self._gcp = gcp
        self._table = {name: facts(name, field) for name, (_, field) in option_fields().items()}

    def put(self, name: str, value: Any, source: str) -> None:
        """Take a value unless a stronger source gave one; call from the strongest source to the weakest."""
        if name not in self.sources:
            self.values[name] = value
            self.sources[name] = source

    def _fail(self, name: str, source: str, fault: ConfigError | str) -> None:
        """Note that option `name` was given and cannot be used; weaker sources must not step in."""
        self._note(source, fault)
        self.broken.add(name)
        self.sources.setdefault(name, source)
        self.values.pop(name, None)

    def _note(self, source: str, fault: ConfigError | str) -> None:
        """Keep a problem, or the reason why a secret cannot be read. `load` reports missing extras together."""
        if isinstance(fault, ExtraMissing):
            self.needs.append(Need(fault.need.extra, source))
        else:
            self.problems.append(fault if isinstance(fault, str) else f"{source}: {fault.problems[0]}")

    def from_flags(self, flags: Mapping[str, Any]) -> None:
        """Read the command line's."""
        for name, value in flags.items():
            if value is None or value in ((), []):
                continue
            if name not in self._table or self._table[name].only_environment:
                self.problems.append(f"{name} cannot be given as a flag. Set its environment variable.")
                continue
            self.put(name, value, self._table[name].flag or "--" + name.replace("_", "-"))

    def from_environment(self) -> None:
        """Read the variables; one that begins with our prefix and is no setting is a problem."""
        known: set[str] = set()
        for name, option in self._table.items():
            for variable in option.variables:
                known.add(variable)
                value = self._environ.get(variable, "")
                if _SERVICE_LINK_URL.match(value) and variable.endswith("_PORT"):
                    continue
                if option.secret or option.url:
                    known.add(variable + FILE_SUFFIX)
                    self._secret_variable(name, variable)
                elif value:
                    self.put(name, value, variable)
        for variable in sorted(self._environ):
            if (
                variable.startswith(PREFIX)
                and variable not in known
                and not _foreign(variable, self._environ)
            ):
                self.problems.append(
                    f"{variable} is not a setting of narthex.{_did_you_mean(variable, known)}"
                )

    def _secret_variable(self, name: str, variable: str) -> None:
        value = self._environ.get(variable, "").strip()
        path = self._environ.get(variable + FILE_SUFFIX, "").strip()
        if value and path:
            self._fail(
                name, variable, f"{variable} and {variable}{FILE_SUFFIX} are both set. Unset one of them."
            )
            return
        source = variable + FILE_SUFFIX if path else variable
        if name in self.sources or not (value or path):
            return
        try:
            self.put(name, read_file(Path(path)) if path else read_value(value, self._gcp), source)
            self._note_reference(name, path or value.startswith(GCP_SCHEME))
        except ConfigError as error:
            self._fail(name, source, error)

    def from_fallbacks(self) -> None:
        """Read the variables of other programs that stand in for a setting of ours which nothing set."""
        for name, option in self._table.items():
            if value := self._environ.get(option.fallback, "").strip():
                self.put(name, value, option.fallback)

    def _note_reference(self, name: str, referenced: object) -> None:
        if referenced:
            self.referenced.add(name)

    def from_file(self, file: Path | None) -> None:
        """Read the settings file, if there is one; `file` as for `load`."""
        named = file or (Path(self._environ[FILE_VARIABLE]) if self._environ.get(FILE_VARIABLE) else None)
        path = named or DEFAULT_FILE
        if named is None and not path.is_file():
            return
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self.problems.append(f"The settings file {path} cannot be read ({reason}). Fix its path or mode.")
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            where = re.search(r"\(at .*\)$", str(error))  # the place only: the text may quote a secret
            self.problems.append(
                f"The settings file {path} is no TOML {where[0] if where else ''}. Fix it there."
            )
            return
        known = {name for name, option in self._table.items() if not option.only_environment}
        known |= {name + "_file" for name, option in self._table.items() if option.secret or option.url}
        known |= {"issuers", "users", "plans"}
        for key, value in data.items():
            if key in known:
                self._file_entry(path, key, value)
            elif key in self._table:
                variable = self._table[key].variables[0]
                self.problems.append(f"{key} is not allowed in {path}. Set the variable {variable}.")
            else:
                self.problems.append(
                    f"{key} in {path} is not a setting of narthex.{_did_you_mean(key, known)}"
                )

    def _file_entry(self, path: Path, key: str, value: Any) -> None:
        name = key if key in self._table else key.removesuffix("_file")
        source = f"{key} in {path}"
        if key in SECRET_MEMBERS:
            if isinstance(value, list):  # validation refuses a value that is not a list
                value = [self._secret_members(path, key, index, entry) for index, entry in enumerate(value)]
            self.put(key, value, source)
        elif name not in self._table:
            self.put(key, value, source)
        elif name not in self.sources:
            is_secret = self._table[name].secret or self._table[name].url
            try:
                self._note_reference(name, name != key or str(value).startswith(GCP_SCHEME))
                if name != key:
                    value = read_file(path.parent / str(value))
                elif is_secret and isinstance(value, str):
                    value = read_value(value, self._gcp)
            except ConfigError as error:
                self._fail(name, source, error)
                return
            if value != "":
                self.put(name, value, source)

    def _secret_members(self, path: Path, key: str, index: int, entry: Any) -> Any:
        """The entry of `[[key]]` with its `<member>_file` and Secret Manager names resolved."""
        if not isinstance(entry, dict):
            return entry
        resolved = dict(entry)
        for member in SECRET_MEMBERS[key]:
            reference = resolved.pop(f"{member}_file", None)
            value = resolved.get(member)
            where = f"{key}[{index}].{member} in {path}"
            if reference is not None and value is not None:
                self._fail(key, where, f"{where} and its _file twin are both set. Remove one of them.")
                continue
            try:
                if reference is not None:
                    resolved[member] = read_file(path.parent / str(reference))
                elif isinstance(value, str):
                    resolved[member] = read_value(value, self._gcp)
            except ConfigError as error:
                self._note(where, error)
                self.broken.add(key)
                resolved.pop(member, None)
        return resolved


def collect(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None,
    gcp: SecretReader | None = None,
) -> Values:
    """Read every source, the strongest first: flags, environment, file, other programs' variables."""
    found = Values(environ, gcp)
    found.from_flags(flags)
    found.from_environment()
    found.from_file(file)
    found.from_fallbacks()
    return found


def _foreign(variable: str, environ: Mapping[str, str]) -> bool:
    if variable in OTHER_VARIABLES or variable.startswith(TEST_PREFIX):
        return True
    on_kubernetes = bool(environ.get("KUBERNETES_SERVICE_HOST"))
    linked = _SERVICE_LINK.match(variable) or _SERVICE_LINK_URL.match(environ[variable])
    return on_kubernetes and linked is not None


def _did_you_mean(name: str, known: set[str]) -> str:
    # The prefix alone makes no two names alike; of `PORT` and `NARTHEX_PORT` ours is meant.
    rest = {
        one.removeprefix(PREFIX): one for one in sorted(known, key=lambda one: (one.startswith(PREFIX), one))
    }
    close = difflib.get_close_matches(name.removeprefix(PREFIX), rest, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {rest[close[0]]}? Rename or unset it."
    return " Unset it; docs/settings.md lists every setting."
