"""Loads an agent by its spec, as the settings name it. Not here: the configured specs (`wiring/agents`).

    module:function             Python async generator (`python`)
    module:agent                Pydantic AI agent (`pydantic_ai`)
    agui+https://…              AG-UI endpoint (`agui_http`)
    openai+http://…#model       OpenAI-compatible endpoint (`openai_http`)
    smollm                      a small model on this machine (`smollm`)
    concierge                   the built-in agent (`concierge`), beside one's own
    name=SPEC                   any of them under another public name

Rule: a spec that cannot be loaded is a ConfigError that names the spec and the remedy. A remote
agent's secret is given beside its spec, by the agent's name, and never stands in a URL.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from narthex.adapters.agents.concierge import NAME as CONCIERGE
from narthex.adapters.agents.concierge import concierge
from narthex.adapters.agents.concierge_watch import Facts
from narthex.adapters.agents.python import python_agent
from narthex.errors import ConfigError
from narthex.extras import Need, command, extra_of, require
from narthex.ports.agents import Agent

_NAMED: Final = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})=(?P<spec>.+)$")
_OBJECT: Final = re.compile(r"^(?P<module>[A-Za-z_][\w.]*):(?P<object>[A-Za-z_][\w.]*)$")


def load_agent(spec: str, *, secrets: Mapping[str, str] | None = None, facts: Facts | None = None) -> Agent:
    """Load an agent. Modules are looked for in the working directory first, as `python -m` does.

    Args:
        spec: as above.
        secrets: bearer token or API key by agent name, for remote agents.
        facts: the gateway's health, which the concierge reports.

    Raises:
        ConfigError: with one sentence of what is wrong and what to do.
    """
    named = _NAMED.match(spec)
    name, rest = (named["name"], named["spec"]) if named else ("", spec)
    if rest.startswith(("agui+http://", "agui+https://")):
        from narthex.adapters.agents.agui_http import agui_agent

        return agui_agent(rest.removeprefix("agui+"), name=name, secrets=secrets or {})
    if rest.startswith(("openai+http://", "openai+https://")):
        from narthex.adapters.agents.openai_http import openai_agent

        return openai_agent(rest.removeprefix("openai+"), name=name, secrets=secrets or {})
    if rest == "smollm":
        from narthex.adapters.agents.smollm import smollm_agent

        return smollm_agent(name=name)
    if rest == CONCIERGE and facts is not None:
        return concierge(facts, name=name or CONCIERGE)
    match = _OBJECT.match(rest)
    if match is None:
        known = "module:function, module:agent, agui+https://…, openai+http://…#model, smollm or concierge"
        raise ConfigError([f"{spec!r} does not name an agent. Use {known}."])
    return _from_object(spec, _imported(spec, match["module"], match["object"]), name)


def _from_object(spec: str, found: Any, name: str) -> Agent:
    if isinstance(found, Agent):
        return found
    if type(found).__module__.partition(".")[0] == "pydantic_ai":
        require(Need("pydantic-ai", f"The agent {spec}"))
        try:
            from narthex.adapters.agents.pydantic_ai import pydantic_agent
        except ImportError as fault:  # there, and too old or incomplete
            raise ConfigError(
                [f"The agent {spec} needs {fault.name}. Install: {command('pydantic-ai')}."]
            ) from fault

        return pydantic_agent(spec, found, name=name)
    if not callable(found):
        raise ConfigError(
            [
                f"Agent {spec} is a {type(found).__name__}: name an async generator function or a Pydantic AI agent."
            ]
        )
    return python_agent(spec, found, name=name)


def _imported(spec: str, module: str, path: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as fault:  # a script that runs and exits when it is imported
        raise ConfigError([f"Agent {spec}: {_why_not_imported(module, here, fault)}"]) from fault
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(
                [f"Agent {spec}: {_file_of(found, module)} has no {path!r}.{_close(found, part)}"]
            )
        found = getattr(found, part)
    return found


def _why_not_imported(module: str, here: str, fault: BaseException) -> str:
    """The file and line that failed, the reason, and the remedy."""
    name = (fault.name or "") if isinstance(fault, ImportError) else ""
    if isinstance(fault, ModuleNotFoundError) and (module == name or module.startswith(f"{name}.")):
        return f"no module {name!r} exists here ({here}) or among the installed packages. Check the spelling."
    where = _where(fault)
    if isinstance(fault, ModuleNotFoundError) and name:
        extra = extra_of(name)
        remedy = command(extra) if extra else f"{sys.executable} -m pip install {name.partition('.')[0]}"
        if extra is None:
            remedy += ", if its package has that name"
        return f"{where} imports {name!r}, which is not installed here. Install it: {remedy}."
    reason = f"{fault.msg}" if isinstance(fault, SyntaxError) else str(fault)
    said = f"{type(fault).__name__}: {reason}".removesuffix(": ").rstrip(".")
    return f"{where} raised {said}. Fix the error there: importing {module} must succeed."


def _where(fault: BaseException) -> str:
    """File and line of the code that failed: the last frame outside Python's own import machinery."""
    if isinstance(fault, SyntaxError) and fault.filename:
        return f"{fault.filename}, line {fault.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(fault.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename != importlib.__file__
    ]
    theirs = [frame for frame in frames if frame.filename != __file__]
    own = [frame for frame in theirs if "site-packages" not in frame.filename] or theirs
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else "the module"


def _file_of(found: Any, module: str) -> str:
    return str(getattr(found, "__file__", None) or module)


def _close(found: Any, name: str) -> str:
    """A hint at names that are there."""
    import difflib

    close = difflib.get_close_matches(name, [known for known in dir(found) if not known.startswith("_")], n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""
