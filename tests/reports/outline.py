"""Reads a report as a browser would: its figures, their images and tables."""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree import ElementTree as ET


class DrawnFigure(NamedTuple):
    """One plot: its title, image, and table as rows of text with the head first."""

    title: str
    image: ET.Element
    table: list[list[str]]

    def paths(self, kind: str) -> list[str]:
        """The `d` of paths of a class."""
        return [one.get("d", "") for one in self.image.iter("path") if kind in one.get("class", "").split()]

    def boxes(self, kind: str) -> list[ET.Element]:
        """The rectangles of a class."""
        return [one for one in self.image.iter("rect") if one.get("class") == kind]


def figures(page: str) -> dict[str, DrawnFigure]:
    """Every plot of a page by its title; fails where one is not well-formed or its names differ."""
    found = {}
    for text in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        root = ET.fromstring(text.replace("<table class=numbers>", "<table>"))
        title = root.findtext("figcaption") or ""
        image = root.find(".//svg")
        assert image is not None
        assert image.get("role") == "img"
        assert (image.get("aria-label") or "").startswith(title)
        assert root.findtext("details/summary") == f"Table: {title}"
        rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
        assert len({len(row) for row in rows}) == 1, title
        found[title] = DrawnFigure(title, image, rows)
    return found
