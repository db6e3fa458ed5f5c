"""Reads the settings of the status page: links, components, logo, time zone, receivers of webhooks.

Not here: the options (`groups.py`), the page (`narthex.status`). Rules: as of `rules.py`; `branding` gives the values
that these rules have checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from narthex.domain.availability import JOURNEYS, MAX_COMPONENTS
from narthex.domain.environment import is_loopback
from narthex.domain.webhooks import BadReceiver, WebhookReceiver, parse_receivers
from narthex.settings.model import Settings

MAX_LOGO_BYTES: Final = 256 * 1024
MAX_LINKS: Final = 10
_COMPONENT: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_LOGOS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"RIFF", "image/webp"),
)


class Branding(NamedTuple):
    """The operator's wishes for the page.

    Attributes:
        links: text and address.
        names: of components, by id: the operator's own ones, and other names for journeys.
        logo: content and media type.
    """

    links: tuple[tuple[str, str], ...]
    names: dict[str, str]
    zone: tzinfo
    logo: tuple[bytes, str] | None
    receivers: tuple[WebhookReceiver, ...]


def branding(settings: Settings) -> Branding:
    """The values of settings that were checked. The logo is read anew: it may have gone meanwhile."""
    logo = _logo(settings.status_logo) if settings.status_logo else None
    return Branding(
        links=tuple((text, address) for text, _, address in map(_halves, settings.status_links)),
        names={key: name for key, _, name in map(_halves, settings.status_components)},
        zone=UTC if settings.status_timezone == "UTC" else ZoneInfo(settings.status_timezone),
        logo=None if isinstance(logo, str) else logo,
        receivers=parse_receivers(_webhooks(settings), plain=True),
    )


def status_problems(settings: Settings, *, remote: bool) -> Iterator[str]:
    """Problems of the status page's settings."""
    yield from _links(settings.status_links)
    yield from _components(settings.status_components)
    if settings.status_logo and isinstance(found := _logo(settings.status_logo), str):
        yield f"NARTHEX_STATUS_LOGO={settings.status_logo} {found}"
    try:
        ZoneInfo(settings.status_timezone)
    except (ValueError, OSError, LookupError):
        if settings.status_timezone != "UTC":
            yield (
                f"NARTHEX_STATUS_TIMEZONE is {settings.status_timezone[:60]!r}, which this machine does not know. Give "
                "a name such as Europe/Berlin; on a system without time zones: pip install tzdata."
            )
    try:
        parse_receivers(_webhooks(settings), plain=not remote)
    except BadReceiver as fault:
        yield f"NARTHEX_STATUS_WEBHOOKS: {fault}. Write https://host/path=whsec_… for each receiver."
    if settings.status_url:
        yield from _url(settings, remote=remote)


def _url(settings: Settings, *, remote: bool) -> Iterator[str]:
    if not _is_url(settings.status_url, ("https", "http")):
        yield "NARTHEX_STATUS_URL is not a URL of http:// or https:// with a host. Give that of narthex status serve."
    else:
        parts = urlsplit(settings.status_url)
        if remote and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            yield "NARTHEX_STATUS_URL is http://, over which the token could be read. Serve it over https."
    if settings.status_token is None:
        yield (
            "NARTHEX_STATUS_URL is set and NARTHEX_STATUS_TOKEN is not: the service takes samples only with it. Set it "
            "to the value that the service has."
        )
    if settings.status_page == "on":
        yield "NARTHEX_STATUS_PAGE is on and NARTHEX_STATUS_URL names another service's page. Unset one."


def _links(words: Sequence[str]) -> Iterator[str]:
    if len(words) > MAX_LINKS:
        yield f"NARTHEX_STATUS_LINKS has {len(words)} links. Give at most {MAX_LINKS}."
    for text, equals, address in map(_halves, words):
        if not equals or not text or not _is_url(address, ("https", "http", "mailto")):
            yield f"NARTHEX_STATUS_LINKS: {text[:60]!r} has no address of https://, http:// or mailto:. Write Text=https://…"


def _components(words: Sequence[str]) -> Iterator[str]:
    keys = [key for key, _, _ in map(_halves, words)]
    for key, equals, name in map(_halves, words):
        if (
            not equals
            or _COMPONENT.fullmatch(key) is None
            or not 0 < len(name) <= 60
            or not name.isprintable()
        ):
            yield (
                f"NARTHEX_STATUS_COMPONENTS: {key[:60]!r} is not id=Name. An id has letters a-z, digits, _ and -, a "
                "name at most 60 characters."
            )
    if len(set(keys)) != len(keys):
        yield "NARTHEX_STATUS_COMPONENTS names an id twice. Remove one."
    if len({*JOURNEYS, *keys}) > MAX_COMPONENTS:
        yield f"NARTHEX_STATUS_COMPONENTS makes more than {MAX_COMPONENTS} components. Remove some."


def _logo(path: Path) -> tuple[bytes, str] | str:
    """Content and media type, or the reason why the file cannot be the logo."""
    try:
        body = path.read_bytes()
    except OSError as fault:
        return f"cannot be read ({fault.strerror}). Correct the path."
    if len(body) > MAX_LOGO_BYTES:
        return f"has {len(body)} bytes. Give an image of at most {MAX_LOGO_BYTES}."
    for magic, media_type in _LOGOS:
        if body.startswith(magic):
            return body, media_type
    if b"<svg" in body[:1_000]:
        return body, "image/svg+xml"
    return "is no image that the page can show. Give SVG, PNG, JPEG or WebP."


def _webhooks(settings: Settings) -> str:
    return settings.status_webhooks.get_secret_value() if settings.status_webhooks else ""


def _halves(word: str) -> tuple[str, str, str]:
    before, equals, after = word.partition("=")
    return before.strip(), equals, after.strip()


def _is_url(text: str, schemes: Sequence[str]) -> bool:
    try:
        parts = urlsplit(text)
        good = parts.port is None or parts.port > 0
    except ValueError:
        return False
    has_target = bool(parts.path) if parts.scheme == "mailto" else bool(parts.hostname)
    return good and parts.scheme in schemes and has_target and not parts.username and text.isprintable()
