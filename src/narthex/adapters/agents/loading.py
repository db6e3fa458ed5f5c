"""From an agent's spec, as settings have it, to the agent. Which specs are configured is wiring's.

    module:function             Python async generator (`python`)
    module:agent                Pydantic AI agent (`pydantic_ai`)
    agui+https://…              AG-UI endpoint (`agui_http`)
    openai+http://…#model       OpenAI-compatible endpoint (`openai_http`)
    smollm                      a small model on this machine (`smollm`)
    name=SPEC                   any of them under another public name

Rule: whatever cannot be loaded is a ConfigError with a sentence that names the spec and what to do. A remote
agent's secret is given beside its spec, by the agent's name, and never stands in a URL.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from narthex.adapters.agents.python import python_agent
from narthex.errors import ConfigError
from narthex.ports.agents import Agent

_NAMED: Final = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})=(?P<spec>.+)$")
_OBJECT: Final = re.compile(r"^(?P<module>[A-Za-z_][\w.]*):(?P<object>[A-Za-z_][\w.]*)$")


def load_agent(spec: str, *, secrets: Mapping[str, str] | None = None) -> Agent:
    """Load an agent. Modules are looked for in the working directory first, as `python -m` does.

    Args:
        spec: as above.
        secrets: bearer token or API key by agent name, for remote agents.

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
    match = _OBJECT.match(rest)
    if match is None:
        known = "module:function, module:agent, agui+https://…, openai+http://…#model or smollm"
        raise ConfigError([f"Agent {spec!r} is no agent. Use {known}."])
    return _from_object(spec, _imported(spec, match["module"], match["object"]), name)


def _from_object(spec: str, found: Any, name: str) -> Agent:
    if isinstance(found, Agent):
        return found
    if type(found).__module__.partition(".")[0] == "pydantic_ai":
        try:
            from narthex.adapters.agents.pydantic_ai import pydantic_agent
        except ImportError as fault:
            raise ConfigError(
                [f"Agent {spec} needs {fault.name}. Install it: pip install 'narthex[pydantic-ai]'."]
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
    except ModuleNotFoundError as fault:
        missing = fault.name or module
        raise ConfigError(
            [f"Agent {spec}: there is no module {missing!r} here ({here}) or among the installed packages."]
        ) from fault
    except (Exception, SystemExit) as fault:  # a script that runs and exits when it is imported
        raise ConfigError(
            [f"Agent {spec}: importing {module} raised {type(fault).__name__}: {fault}."]
        ) from fault
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError([f"Agent {spec}: {module} has no {path!r}."])
        found = getattr(found, part)
    return found
