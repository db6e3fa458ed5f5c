"""`/problems/<code>`: every code that a client can be answered leads to a page."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import narthex
from narthex.domain.problem_table import problem_codes, problem_row
from narthex.domain.refusals import TABLE, Refusal
from narthex.errors import ClientError
from narthex.web.problem_pages import problem_facts, routes
from narthex.web.problems import client_error

SOURCES = Path(narthex.__file__).parent
ROOMS = ("app", "domain", "guard", "protocol", "status", "web", "wiring")
"""Code that answers clients; the commands' own errors (cli, doctor, e2e, bench) never leave their terminal."""


def codes_in(path: Path) -> set[str]:
    """The codes that a module gives to `ClientError`."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "ClientError"
        for argument in call.args[:1]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


@pytest.fixture
def http() -> TestClient:
    """An application that has only these pages."""
    return TestClient(Starlette(routes=routes()))


def test_every_code_of_the_sources_has_a_row() -> None:
    """A code without a page would be a `type` that leads nowhere."""
    found = {code for room in ROOMS for path in (SOURCES / room).rglob("*.py") for code in codes_in(path)}
    assert len(found) > 30
    assert found - set(problem_codes()) == set()


def test_a_problem_s_type_leads_to_its_page(http: TestClient) -> None:
    """Of each refusal, and of a command's error."""
    types = [str(Refusal(code=code).problem("t")["type"]) for code in TABLE]
    answer = client_error(ClientError("queue_full", "The thread has 20 runs waiting.", number=429))
    assert b'"title":"The thread has as many waiting runs as are allowed"' in bytes(answer.body)
    for path in (*types, "/problems/queue_full"):
        page = http.get(path)
        assert page.status_code == 200, path
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        row = problem_row(path.rpartition("/")[2])
        assert row is not None
        assert row.title.split("'")[0] in page.text


def test_a_program_gets_json(http: TestClient) -> None:
    """With `Accept: application/json`; the list of all as well."""
    accept = {"Accept": "application/json"}
    assert http.get("/problems/token_expired", headers=accept).json() == {
        "code": "token_expired",
        "title": "The token has expired",
        "status": 401,
        "close": 3500,
        "remedy": "Refresh the token and connect again.",
    }
    listed = http.get("/problems", headers=accept).json()["problems"]
    assert listed == [problem_facts(code) for code in problem_codes()]


def test_a_code_that_is_none_is_not_there(http: TestClient) -> None:
    """Nothing of the path stands on a page."""
    assert http.get("/problems/<script>").status_code == 404
