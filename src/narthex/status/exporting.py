"""Writes the page as static files for a bucket: HTML, JSON, feed, badge, icon, logo, and a page for each incident.

Not here: the drawing. Rules: links are relative, so that the folder works under any path; a file is replaced in one
step, so that a synchronisation never takes half of one; pages of incidents that are not shown any more are deleted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from narthex.status.badge import badge, icon
from narthex.status.document import StatusDocument
from narthex.status.feed import feed
from narthex.status.page import Look, Paths, incident_page, status_page
from narthex.status.routes import Logo

_SUFFIXES: Final = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
INCIDENTS: Final = "incidents"


def files(document: StatusDocument, look: Look, logo: Logo | None, base_url: str) -> dict[str, bytes]:
    """The files, by their path below the folder.

    Args:
        document: the page's content.
        look: of the page.
        logo: the operator's, or None.
        base_url: the address at which the folder will be read, for the feed; without a slash at the end.
    """
    logo_name = f"logo.{_SUFFIXES[logo.media_type]}" if logo else ""

    def paths(above: str, page: str = "index.html") -> Paths:
        return Paths(
            page=above + page,
            json=f"{above}status.json",
            atom=f"{above}status.atom",
            badge=f"{above}badge.svg",
            icon=f"{above}icon.svg",
            logo=above + logo_name,
            incident=f"{above}{INCIDENTS}/{{}}.html",
        )

    found = {
        "index.html": status_page(document, look, paths("")),
        "status.json": msgspec.json.encode(document).decode(),
        "status.atom": feed(document, look, paths("/"), base_url),
        "badge.svg": badge(document.name, document.state, look.words),
        "icon.svg": icon(document.state),
    }
    for one in (*document.incidents, *document.maintenance):
        found[f"{INCIDENTS}/{one.id}.html"] = incident_page(document, one, look, paths("../"))
    return {name: text.encode() for name, text in found.items()} | ({logo_name: logo.body} if logo else {})


def write(directory: Path, found: dict[str, bytes]) -> None:
    """Write the files. Raises OSError."""
    (directory / INCIDENTS).mkdir(parents=True, exist_ok=True)
    for name, body in found.items():
        path = directory / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(body)
        temporary.replace(path)
    for path in (directory / INCIDENTS).glob("*.html"):
        if f"{INCIDENTS}/{path.name}" not in found:
            path.unlink()
