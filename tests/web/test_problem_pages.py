"""`/problems/<code>`: every code that a client can be answered leads to a page."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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


def errors_in(path: Path) -> Iterator[tuple[str, int]]:
    """The codes that a module gives to `ClientError`, with their numbers; 0 where a caller gives it."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "ClientError":
            numbers = [one.value for one in call.keywords if one.arg == "number"]
            code = call.args[0] if call.args else None
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                (number,) = numbers or [ast.Constant(ClientError(code.value, "").number)]
                assert isinstance(number, ast.Constant | ast.Name), f"{path}:{call.lineno}"
                yield code.value, int(str(number.value)) if isinstance(number, ast.Constant) else 0


def errors() -> set[tuple[str, int]]:
    """All of them."""
    return {found for room in ROOMS for path in (SOURCES / room).rglob("*.py") for found in errors_in(path)}


@pytest.fixture
def http() -> TestClient:
    """An application that has only these pages."""
    return TestClient(Starlette(routes=routes()))


def test_every_code_of_the_sources_has_a_row() -> None:
    """A code without a page would be a `type` that leads nowhere."""
    found = {code for code, _ in errors()}
    assert len(found) > 30
    assert found - set(problem_codes()) == set()


def test_a_page_has_the_status_of_its_error() -> None:
    """A program that reads the list branches on it."""
    numbers: dict[str, set[int]] = {}
    for code, number in errors():
        numbers.setdefault(code, set()).add(number)
    wrong = {code: found for code, found in numbers.items() if problem_facts(code)["status"] not in found}
    assert wrong == {}


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
