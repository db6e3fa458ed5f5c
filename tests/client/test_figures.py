"""The figures in docs/client-python.md are those of the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from narthex import client
from narthex.client.refusals import from_problem
from tests.client.scripted import problem

PAGE = (Path(__file__).parents[2] / "docs" / "client-python.md").read_text()


def test_the_defaults_of_connect_are_those_of_the_page() -> None:
    """Each time-out in the table of options."""
    parameters = inspect.signature(client.connect).parameters
    for name in ("timeout_s", "connect_timeout_s"):
        (shown,) = re.findall(rf"^\| `{name}` \| ([\d.]+) \|", PAGE, re.MULTILINE)
        assert float(shown) == parameters[name].default


def test_how_much_of_a_retry_after_counts_is_what_the_page_says() -> None:
    """A longer one is cut to it."""
    (shown,) = re.findall(r"`Retry-After` \(of which at most (\d+) s count\)", PAGE)
    refused = from_problem(503, problem("starting", 503), "86400")
    assert refused is not None
    assert refused.retry_after_s == float(shown)
