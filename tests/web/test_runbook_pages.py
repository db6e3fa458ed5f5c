"""`/runbooks/<name>`: each alert's link leads to a page, whose Markdown is shown as HTML."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from narthex.adapters.telemetry.alerts import ALERTS
from narthex.adapters.telemetry.runbooks import find, runbook
from narthex.web.runbook_pages import html_of, routes


def read(name: str) -> str:
    """The text of one."""
    alert = find(name)
    assert alert is not None
    return runbook(alert)


@pytest.fixture
def http() -> TestClient:
    """An application that has only these pages, behind a proxy's path."""
    pages = routes({alert.slug: alert.name for alert in ALERTS}, read)
    return TestClient(Starlette(routes=[Mount("/chat", routes=pages)]))


def test_each_alert_has_a_page(http: TestClient) -> None:
    """All of its text is on it, without a mark of Markdown; its links lead to other pages."""
    index = http.get("/chat/runbooks").text
    for alert in ALERTS:
        assert f'href="/chat/runbooks/{alert.slug}"' in index
        answer = http.get(f"/chat/runbooks/{alert.slug}")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        titles = re.findall("<h2>(.*?)</h2>", answer.text)
        assert titles == ["What it means", "What to look at", "What to do"]
        outside = re.sub(r"<(code|pre|style)>.*?</\1>", "", answer.text, flags=re.DOTALL)
        assert not re.search(r"\*\*|`|\]\(|<!-- |^#|^- ", re.sub(r"<[^>]+>", "", outside), re.MULTILINE), (
            alert.name
        )
        for target in re.findall('href="([^"]+)"', answer.text):
            assert http.get(target).status_code == 200, target
    assert http.get("/chat/runbooks/no-such").status_code == 404


def test_markdown_cannot_make_other_html() -> None:
    """Marks in code stay; a link that the gateway does not serve is text; HTML is escaped."""
    text = "# A *b* `*c*`\n\n- **d `e`** [f](g.md)\n- [h](../i.md) <script>\n\n```promql\na < b\n```"
    assert html_of(text, {"g.md": "/g"}) == (
        "<h1>A <em>b</em> <code>*c*</code></h1>"
        '<ul><li><strong>d <code>e</code></strong> <a href="/g">f</a></li><li>h &lt;script&gt;</li></ul>'
        "<pre><code>a &lt; b</code></pre>"
    )
