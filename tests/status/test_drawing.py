"""The page, the feed and the badge: complete, escaped, in each language, and quick with 90 days."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from datetime import UTC
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import feedparser
import msgspec
import pytest

from narthex.domain.availability import JOURNEYS, MAX_COMPONENTS, ServiceState
from narthex.domain.incidents import IncidentUpdate
from narthex.status.badge import badge, icon
from narthex.status.document import StatusComponent, StatusDocument
from narthex.status.feed import feed
from narthex.status.page import SCRIPT, SERVED, STYLE, Look, incident_page, status_page
from narthex.status.service import OpenIncident, StatusService
from narthex.status.words import LANGUAGES, Words
from tests.status.filled import COMPONENTS, fill, service
from tests.timing import within

ROOT = Path(__file__).parents[2]
BASE = "https://status.example.com"
KEEPS_FRESH = f"<script>{SCRIPT}</script>"  # the page is judged without it
NASTY = "<script>alert(1)</script> & \"q\" 'a' ]]> --> {when} {0} %s"


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[StatusService]:
    """A page with 90 days."""
    await fill(tmp_path / "status.db", time.time())
    found = service(tmp_path)
    yield found
    await found.stop()


class Outline(HTMLParser):
    """Elements and text of a page; fails on markup that does not nest."""

    VOID = frozenset({"meta", "link", "img", "path", "rect", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        assert text.count(KEEPS_FRESH) == 1
        text = text.replace(KEEPS_FRESH, "")
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See the base."""
        self.names.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See the base."""
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """See the base."""
        self.text += data


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_page_says_everything_without_a_script(language: str, filled: StatusService) -> None:
    """Each bar has a text, and each colour a word beside it."""
    words = LANGUAGES[language]
    document = await filled.document()
    page = Outline(status_page(document, Look(words, UTC, [("Support", "mailto:help@example.com")])))
    assert "script" not in page.names
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert page.names.count("h1") == 1
    assert ("html", "lang", language) in page.attributes
    assert page.names.count("title") == 1 + 90 * len(COMPONENTS)  # of the page, and of each day
    assert words.headlines[ServiceState.DEGRADED] in page.text
    assert "Answers begin late" in page.text
    assert words.day_outage.format(minutes=120) in page.text
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == len(COMPONENTS)
    assert all(words.percent(1.0)[-1] in label for label in labels)


async def test_what_an_operator_writes_is_text(filled: StatusService) -> None:
    """On the page, in the feed and on the badge; braces and per cent signs mean nothing."""
    opened = await filled.open(OpenIncident(title=NASTY, text=f"{NASTY}\nsecond line"), "ada")
    document = msgspec.structs.replace(await filled.document(), name=NASTY)
    look = Look(LANGUAGES["en"], UTC, [(NASTY, "https://example.com/?a=1&b='\"")], logo=True)
    for html in (status_page(document, look), incident_page(document, opened, look)):
        page = Outline(html)
        assert "script" not in page.names
        assert NASTY in page.text
    found = ET.fromstring(feed(document, look, SERVED, BASE))
    assert any(NASTY in (element.text or "") for element in found.iter())
    drawn = ET.fromstring(badge(NASTY, ServiceState.OUTAGE, LANGUAGES["en"]))
    assert "script" not in {element.tag.rpartition("}")[2] for element in drawn.iter()}


def test_every_language_has_every_text() -> None:
    """With the same places to fill in."""
    places = re.compile(r"{\w+}")
    english = LANGUAGES["en"]
    for words in LANGUAGES.values():
        assert set(words.journeys) == set(JOURNEYS)
        assert set(words.states) == set(words.headlines) == set(ServiceState)
        assert words.incident_states.keys() == english.incident_states.keys()
        assert len(words.months) == 12
        for name in Words._fields:
            mine, other = getattr(words, name), getattr(english, name)
            if isinstance(mine, str) and name not in ("tag", "decimal", "percent_sign"):
                assert mine
                assert sorted(places.findall(mine)) == sorted(places.findall(other)), name


def test_moments_are_those_of_the_time_zone() -> None:
    """With its name, and written as the language does."""
    at = 1_796_027_400.0  # 30 November 2026, 08:30 UTC
    assert LANGUAGES["en"].when(at, UTC) == "30 November 2026, 08:30 UTC"
    assert LANGUAGES["de"].when(at, ZoneInfo("Europe/Berlin")) == "30. November 2026, 09:30 CET"
    assert LANGUAGES["de"].percent(0.99987) == "99,98\N{NO-BREAK SPACE}%"


async def test_a_feed_reader_understands_the_feed(filled: StatusService) -> None:
    """Entries have ids that stay, and are newer after an update."""
    look = Look(LANGUAGES["en"], UTC)
    document = await filled.document()
    read = feedparser.parse(feed(document, look, SERVED, BASE))
    assert not read.bozo, read.get("bozo_exception")
    assert read.version == "atom10"
    assert read.feed.links[0].href == f"{BASE}/status.atom"
    assert [entry.title for entry in read.entries] == [
        "Answers begin late (Identified)",
        "Upgrade of the database (Scheduled)",
        "Connections were refused in Europe (Resolved)",
    ]
    assert read.entries[0].link == f"{BASE}/status/incidents/aa0000000002"
    assert "We move traffic" in read.entries[0].content[0].value
    ids = [entry.id for entry in read.entries]
    assert len({read.feed.id, *ids}) == 4
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", one) for one in ids)
    elsewhere = feedparser.parse(feed(document, look, SERVED, "https://other.example.com"))
    assert [entry.id for entry in elsewhere.entries] == ids


async def test_a_feed_without_entries_is_valid(tmp_path: Path) -> None:
    """RFC 4287 requires an update's time all the same."""
    found = service(tmp_path)
    read = feedparser.parse(feed(await found.document(), Look(LANGUAGES["en"], UTC), SERVED, BASE))
    assert not read.bozo
    assert read.feed.updated
    await found.stop()


@pytest.mark.parametrize("state", ServiceState)
def test_badges_are_images_with_a_text(state: ServiceState) -> None:
    """A screen reader reads the title; the width fits the text."""
    drawn = ET.fromstring(badge("Acme Chat", state, LANGUAGES["de"]))
    title = drawn.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == f"Acme Chat: {LANGUAGES['de'].states[state]}"
    ET.fromstring(icon(state))


async def test_ninety_days_of_a_full_page_are_drawn_in_a_second(tmp_path: Path) -> None:
    """With as many components as a page may have, and 80 incidents: reading and drawing together."""
    names = [*JOURNEYS, *(f"c{number}" for number in range(MAX_COMPONENTS - len(JOURNEYS)))]
    components = [StatusComponent(name, name) for name in names]
    await fill(tmp_path / "status.db", time.time(), components)
    found = service(tmp_path, components=components)
    for number in range(80):
        await found.open(OpenIncident(title=f"Incident {number}", text="x" * 500), "ada")
    best = float("inf")
    for _ in range(3):
        found._read_at = float("-inf")
        began = time.perf_counter()
        document = await found.document()
        html = status_page(document, Look(LANGUAGES["en"], UTC))
        best = min(best, time.perf_counter() - began)
    print(f"{best * 1000:.0f} ms for {len(html) / 1024:.0f} KB")
    assert best < within(1.0)
    await found.stop()


async def test_a_document_is_read_back(filled: StatusService) -> None:
    """`narthex status export --url` does so."""
    document = await filled.document()
    assert msgspec.json.decode(msgspec.json.encode(document), type=StatusDocument) == document


def test_the_colours_are_those_of_the_other_pages() -> None:
    """The page has its own style, because it is one file; a changed token must not be forgotten here."""
    other = (ROOT / "web/src/styles/colours.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"(--[\w-]+): ([^;]+);", half)) for half in other.split(':root[data-theme="dark"]')
    )
    own_light, own_dark = STYLE.split("@media (prefers-color-scheme: dark)")
    for own, theirs in ((own_light, light), (own_dark.split("*, *::before")[0], dark)):
        found = dict(re.findall(r"(--[\w-]+): ([^;]+);", own))
        assert len(found) > 12
        assert {name: theirs[name] for name in found} == found


def test_an_update_is_a_value() -> None:
    """Documents are compared and cached by identity, so nothing in them may change."""
    with pytest.raises(AttributeError):
        IncidentUpdate(at=0.0, state="x", text="y").text = "z"  # type: ignore[misc]
