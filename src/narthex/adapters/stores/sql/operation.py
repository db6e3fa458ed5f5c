"""Defines an operation: a generator that yields statements and receives their rows.

Not here: engines, which run operations (`stores/sqlite.py`, `stores/postgres.py`).

    def rename(thread_id: str) -> Operation[bool]:
        rows = yield "UPDATE threads SET title = ? WHERE thread_id = ? RETURNING 1", ("x", thread_id)
        return bool(rows)

Rules: one operation is one transaction, and an engine may run it with others in one commit; it does no I/O, reads no
clock and keeps no state; placeholders are `?`; its SQL is common to SQLite and PostgreSQL, the rest is a `Dialect`'s.
An exception in an operation undoes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from narthex.adapters.stores.sql.dialect import Dialect

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

Row = tuple[Any, ...]  # Any: columns differ; `Shape` gives them their types
Statement = tuple[str, Sequence[object]]
Operation = Generator[Statement, list[Row], T]


P = ParamSpec("P")


class SqlEngine(Protocol):
    """Runs operations against one database.

    Both methods raise the operation's exceptions, and DependencyError when the database fails.
    """

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that changes nothing, on a state that includes every write that returned before."""

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction; returns once it is durable."""


class Adapter:
    """A port's methods as operations on one engine: each is written once, as a generator under `reads` or `writes`.

    Args:
        engine: runs them.
        dialect: its SQL.
    """

    def __init__(self, engine: SqlEngine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect


A = TypeVar("A", bound=Adapter)


def reads(
    operation: Callable[Concatenate[A, P], Operation[T]],
) -> Callable[Concatenate[A, P], Coroutine[Any, Any, T]]:
    """A method of an `Adapter` that changes nothing: see `SqlEngine.read`."""

    async def method(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.read(operation(self, *args, **kwargs))

    return functools.update_wrapper(method, operation)


def writes(
    operation: Callable[Concatenate[A, P], Operation[T]],
) -> Callable[Concatenate[A, P], Coroutine[Any, Any, T]]:
    """A method of an `Adapter` that is a transaction: see `SqlEngine.write`."""

    async def method(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.write(operation(self, *args, **kwargs))

    return functools.update_wrapper(method, operation)


class Shape(Generic[S]):
    """A Struct's form in a table: columns named as its fields; bool as 0/1, tuple[str, …] as JSON text.

    Args:
        struct: the Struct.
        most: characters; a text that has more is read as empty, where it is one of the fields `bounded`.
        bounded: see `most`.
    """

    def __init__(self, struct: type[S], *, bounded: Collection[str] = (), most: int = 0) -> None:
        fields = msgspec.structs.fields(struct)
        self._struct = struct
        self._bounded = frozenset(bounded)
        self._most = most
        self.names = tuple(field.name for field in fields)
        self.columns = ", ".join(f'"{name}"' for name in self.names)
        self.placeholders = ", ".join("?" * len(self.names))
        self._numbers = tuple(field.name for field in fields if field.type is float)
        self._booleans = frozenset(field.name for field in fields if field.type is bool)
        self._tuples = frozenset(field.name for field in fields if field.type == tuple[str, ...])

    def of(self, alias: str = "") -> str:
        """The columns of a SELECT, qualified by their table's alias, if it has one."""
        columns = [f'{alias}."{name}"' if alias else f'"{name}"' for name in self.names]
        for at, name in enumerate(self.names):
            if name in self._bounded:
                columns[at] = f"CASE WHEN length({columns[at]}) > {self._most} THEN '' ELSE {columns[at]} END"
        return ", ".join(columns)

    def into(self, table: str, *more: str) -> str:
        """The INSERT of a Struct's `values`, and of values for `more` columns."""
        columns, places = ", ".join((self.columns, *more)), ", ".join("?" * (len(self.names) + len(more)))
        return f"INSERT INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - names of tables and columns

    def many(self, rest: str, *values: object, alias: str = "") -> Operation[list[S]]:
        """One Struct per row of `SELECT columns rest`; `alias` is the columns' table where `rest` joins several."""
        rows = yield f"SELECT {self.of(alias)} {rest}", values
        return self.read_all(rows)

    def one(self, rest: str, *values: object, alias: str = "") -> Operation[S | None]:
        """As `many`: the first row's Struct, or None."""
        found = yield from self.many(rest, *values, alias=alias)
        return found[0] if found else None

    def read(self, row: Row) -> S:
        """The Struct in the first columns of `row`."""
        found: dict[str, Any] = dict(zip(self.names, row, strict=False))
        for name in self._numbers:  # SQLite's RETURNING gives 2.0 back as 2
            found[name] = float(found[name])
        for name in self._booleans:
            found[name] = bool(found[name])
        for name in self._tuples:
            found[name] = tuple(msgspec.json.decode(found[name], type=list[str]))
        return self._struct(**found)

    def read_all(self, rows: list[Row]) -> list[S]:
        """One Struct per row."""
        return [self.read(row) for row in rows]

    def first(self, rows: list[Row]) -> S | None:
        """The first row's Struct, or None."""
        return self.read(rows[0]) if rows else None

    def values(self, value: S) -> tuple[object, ...]:
        """The parameters for `placeholders`."""
        return tuple(self._plain(name, getattr(value, name)) for name in self.names)

    def _plain(self, name: str, value: object) -> object:
        if name in self._booleans:
            return int(bool(value))
        if name in self._tuples:
            return msgspec.json.encode(value).decode()
        return value


def found(sql: str, *values: object) -> Operation[bool]:
    """Whether a statement gives rows: a SELECT has found some, a change with RETURNING has changed some."""
    rows = yield sql, values
    return bool(rows)


def number(sql: str, *values: object) -> Operation[int]:
    """The number in the first row of a statement; 0 where there is none."""
    rows = yield sql, values
    return int(rows[0][0]) if rows else 0


def each(statements: Iterable[Statement]) -> Operation[None]:
    """Run statements and ignore their rows."""
    for statement in statements:  # noqa: UP028 - `yield from` a tuple fails when rows are sent to it
        yield statement


def marks(count: int) -> str:
    """`?, ?, ?` for an IN list of `count` ≥ 1."""
    return ", ".join("?" * count)


def padded(names: Collection[str]) -> list[str]:
    """`names`, padded with empty ones to a power of two, for a dozen statements to prepare instead of one for every
    number of names. No id is empty.
    """
    return [*names, *[""] * ((1 << len(names).bit_length()) - len(names))]
