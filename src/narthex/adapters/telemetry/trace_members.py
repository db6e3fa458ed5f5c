"""The members that put a log record into its trace: `trace_id`, `span_id`, and Google Cloud Logging's own.

Not here: rendering (`logging.py`), the spans (`ports/tracing.py`). Rules: a record that has a `trace_id` keeps it; on
Google's platform (`K_SERVICE`) the project's name comes from `GOOGLE_CLOUD_PROJECT` or from the metadata server,
which is asked once, beside the start; without it Google's members are left out.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from narthex.ports.tracing import current_span

METADATA_S: Final = 2.0
_PATH: Final = "/computeMetadata/v1/project/project-id"
_PROJECT: Final = re.compile(r"[a-z][a-z0-9.:-]{4,62}")
_GOOGLE: Final = "logging.googleapis.com/"


class _Google:
    """The project whose traces the records name; empty: none."""

    project = ""


def add_trace(members: MutableMapping[str, Any]) -> dict[str, Any]:
    """Add `trace_id` and `span_id` of the work at hand to a record; returns Google's members for it."""
    context = current_span().context
    trace_id = members.get("trace_id")
    if context is not None and trace_id in (None, "", context.trace_id):
        members["trace_id"] = trace_id = context.trace_id
        members["span_id"] = context.span_id
    elif trace_id:
        context = None  # the record is about another trace
    if not _Google.project or not trace_id:
        return {}
    found: dict[str, Any] = {f"{_GOOGLE}trace": f"projects/{_Google.project}/traces/{trace_id}"}
    if context is not None:
        found |= {f"{_GOOGLE}spanId": context.span_id, f"{_GOOGLE}trace_sampled": context.sampled}
    return found


def find_project(environ: Mapping[str, str] = os.environ) -> threading.Thread | None:
    """Find the Google project, where there is one. Returns the thread that asks for it, if one does."""
    _Google.project = ""
    if not environ.get("K_SERVICE"):
        return None
    if named := environ.get("GOOGLE_CLOUD_PROJECT", "").strip():
        _name(named)
        return None
    host = environ.get("GCE_METADATA_HOST", "").strip() or "metadata.google.internal"
    thread = threading.Thread(target=_ask, args=(host,), name="narthex-project", daemon=True)
    thread.start()
    return thread


def _ask(host: str) -> None:
    import httpx2  # 100 ms, elsewhere in vain

    try:
        answer = httpx2.get(
            f"http://{host}{_PATH}",
            headers={"Metadata-Flavor": "Google"},
            timeout=METADATA_S,
            follow_redirects=False,
            trust_env=False,
        )
    except httpx2.HTTPError:
        return
    if answer.status_code == 200 and answer.headers.get("metadata-flavor") == "Google":
        _name(answer.text.strip())


def _name(project: str) -> None:
    if _PROJECT.fullmatch(project):
        _Google.project = project
