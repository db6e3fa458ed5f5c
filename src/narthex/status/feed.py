"""Writes the Atom feed (RFC 4287): one entry an incident or window of maintenance, updated with each update.

Rules: an entry's id never changes, whatever the address of the page becomes; texts are escaped plain text.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from html import escape
from typing import Final

from narthex.status.document import IncidentStatus, StatusDocument
from narthex.status.page import Look, Paths

_NAMESPACE: Final = uuid.UUID("6f1c8c0e-2f0e-5d7b-9c35-6d0d5ad6a3f1")
MEDIA_TYPE: Final = "application/atom+xml"
MAX_ENTRIES: Final = 100


def feed(document: StatusDocument, look: Look, paths: Paths, base_url: str) -> str:
    """The feed.

    Args:
        document: the page's.
        look: for the language.
        paths: the addresses below `base_url`.
        base_url: `https://host`, or with a path for a page in a bucket; without a slash at the end.
    """
    words = look.words
    found = sorted(
        (*document.incidents, *document.maintenance), key=lambda one: one.updated_at, reverse=True
    )[:MAX_ENTRIES]
    # A feed without entries changes when its page changes: at the latest now.
    updated = found[0].updated_at if found else document.generated_at
    title = escape(words.title.format(name=document.name))
    entries = "".join(_entry(one, document, look, base_url + paths.of_incident(one.id)) for one in found)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="{words.tag}"><id>{_urn("feed", base_url)}</id>'
        f"<title>{title}</title><updated>{updated}</updated><author><name>{escape(document.name)}</name></author>"
        f'<link rel="self" type="{MEDIA_TYPE}" href="{escape(base_url + paths.atom)}"/>'
        f'<link rel="alternate" type="text/html" href="{escape(base_url + paths.page)}"/>{entries}</feed>\n'
    )


def _entry(found: IncidentStatus, document: StatusDocument, look: Look, url: str) -> str:
    words = look.words
    names = {one.id: one.name for one in document.components}
    affected: Sequence[str] = [names.get(one, one) for one in found.components] or [words.all_components]
    state = words.incident_states.get(found.state, found.state)
    text = "\n\n".join(
        f"{words.incident_states.get(one.state, one.state)} ({one.at}): {one.text}" for one in found.updates
    )
    return (
        f"<entry><id>{_urn('incident', found.id)}</id><title>{escape(f'{found.title} ({state})')}</title>"
        f"<published>{found.updates[-1].at}</published><updated>{found.updated_at}</updated>"
        f'<link rel="alternate" type="text/html" href="{escape(url)}"/>'
        + "".join(f'<category term="{escape(name)}"/>' for name in affected)
        + f'<content type="text">{escape(text)}</content></entry>'
    )


def _urn(kind: str, value: str) -> str:
    return uuid.uuid5(_NAMESPACE, f"{kind}:{value}").urn
