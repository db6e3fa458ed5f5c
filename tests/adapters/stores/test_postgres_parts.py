"""Small parts of the PostgreSQL adapter: placeholders, texts, operations that are driven over a connection."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.adapters.stores.postgres import _clean, _drive, _numbered, _synchronous_commit
from narthex.adapters.stores.sql.operation import Operation


class Connection:
    """Answers with the rows that it was given, in order."""

    def __init__(self, *answers: list[tuple[Any, ...]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, tuple[Any, ...], float | None]] = []

    async def fetch(self, sql: str, *values: Any, timeout: float | None) -> list[tuple[Any, ...]]:
        """As asyncpg's."""
        self.asked.append((sql, values, timeout))
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("sql", "numbered"),
    [("SELECT 1", "SELECT 1"), ("a = ?", "a = $1"), ("a = ? AND b IN (?, ?)", "a = $1 AND b IN ($2, $3)")],
)
def test_placeholders_are_numbered_from_one(sql: str, numbered: str) -> None:
    """As PostgreSQL wants them."""
    assert _numbered(sql) == numbered


def test_a_null_character_is_replaced_in_texts_only() -> None:
    """PostgreSQL takes none in a text; everything else goes as it is."""
    assert _clean("a\0b") == "a\ufffdb"
    for value in ("ab", b"a\0b", 0, None, 1.5):
        assert _clean(value) is value


async def test_an_operation_gets_its_rows_and_gives_its_result() -> None:
    """Each statement with its values and its time; the last result is the operation's own."""

    def operation() -> Operation[int]:
        first = yield "SELECT ?", ("a\0",)
        second = yield "SELECT ? + ?", (first[0][0], 2)
        return int(second[0][0])

    connection = Connection([(1,)], [(3,)])
    assert await _drive(connection, operation(), 5.0) == 3
    assert connection.asked == [("SELECT $1", ("a\ufffd",), 5.0), ("SELECT $1 + $2", (1, 2), 5.0)]
    assert await _drive(Connection([("off",)]), _synchronous_commit()) == "off"
