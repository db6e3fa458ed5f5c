"""Holds the differences between SQLite and PostgreSQL: serial columns, locks, full-text search.

Not here: common SQL, which is in the operations beside it. Rules: a dialect is a value of statements and small pure
functions; it runs nothing.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from narthex.adapters.stores.sql.operation import Operation, Statement, found, marks

MAX_WORDS: Final = 16  # of a search text; each costs one list to intersect
SNIPPET_WORDS: Final = 16
_WORD: Final = re.compile(r"[^\W_]+")  # as both engines split: an underscore separates words


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's differences.

    Attributes:
        serial: type of an ascending row number, as a column definition.
        lock: the statement that serialises operations with one lock name until their transaction ends, or
            None where one writer serialises all.
        lock_patience: the statement that bounds the waits of a migration for the tables' locks, where nodes of the
            version before go on meanwhile and indexes are built after it (`postgres_indexes`); None: where this
            process alone uses the database.
        hold: suffix of a SELECT: the rows cannot be deleted until the transaction ends.
        seize: suffix of a SELECT: the rows are about to be deleted; waits for the transactions that hold them.
        take: suffix of a SELECT from `t`: as `seize`, but leaves out the rows that another transaction holds.
        clock: the store's own clock, as an expression: seconds since some moment, the same for all instances and
            independent of the gateways' clocks.
        numbered: the statement that gives the next number of a run; ascending, with gaps.
        places_schema: triggers that give the last place to messages and runs which a program of schema 2 inserts.
        search_schema: the full-text part of the first schema.
        search_added: updates the index after rows were inserted: (table, seq) → statements.
        search_removed: the same before rows of a thread are deleted: thread id → statements.
        search_pruned: the same before some messages are deleted: their seqs → statements.
        search_titled: the same before (True: after) a title changes: (thread id, after) → statements.
        search: (tenant, user, words, limit, condition) → the statement whose rows are thread_id, title, message_id,
            snippet, created_at, best first; the condition is about threads `t` and takes a column with a moment.
    """

    serial: str
    lock: str | None
    lock_patience: str | None
    hold: str
    seize: str
    take: str
    clock: str
    numbered: str
    places_schema: tuple[str, ...]
    search_schema: tuple[str, ...]
    search_added: Callable[[str, int], tuple[Statement, ...]]
    search_removed: Callable[[str], tuple[Statement, ...]]
    search_pruned: Callable[[list[int]], tuple[Statement, ...]]
    search_titled: Callable[[str, bool], tuple[Statement, ...]]
    search: Callable[[str, str, list[str], int, Callable[[str], Statement]], Statement]

    def locked(self, *names: str) -> Operation[None]:
        """Take locks in this order: operations with one of the names wait until this one's transaction ends."""
        if self.lock is not None:
            for name in names:
                yield self.lock, (name,)

    def held(self, tenant: str, thread_id: str) -> Operation[bool]:
        """Whether there is the thread, which cannot be deleted until the transaction ends."""
        find = f"SELECT 1 FROM threads WHERE tenant = ? AND thread_id = ?{self.hold}"
        return found(find, tenant, thread_id)


def words(text: str) -> list[str]:
    """The words of a search text, lower-cased; at most `MAX_WORDS`."""
    return [word.lower() for word in _WORD.findall(text)[:MAX_WORDS]]


_FTS_COLUMN: Final = {"threads": "title", "messages": "content"}


def _sqlite_added(table: str, seq: int) -> tuple[Statement, ...]:
    column = _FTS_COLUMN[table]
    return (
        (
            (
                f"INSERT INTO {table}_search (rowid, tenant, {column})"
                f" SELECT seq, tenant, {column} FROM {table} WHERE seq = ?"
            ),
            (seq,),
        ),
    )


def _sqlite_forget(table: str, thread_id: str) -> Statement:
    column = _FTS_COLUMN[table]
    return (
        (
            f"INSERT INTO {table}_search ({table}_search, rowid, tenant, {column})"
            f" SELECT 'delete', seq, tenant, {column} FROM {table} WHERE thread_id = ?"
        ),
        (thread_id,),
    )


def _sqlite_removed(thread_id: str) -> tuple[Statement, ...]:
    return (_sqlite_forget("messages", thread_id), _sqlite_forget("threads", thread_id))


def _sqlite_pruned(seqs: list[int]) -> tuple[Statement, ...]:
    return (
        (
            (
                "INSERT INTO messages_search (messages_search, rowid, tenant, content)"
                f" SELECT 'delete', seq, tenant, content FROM messages WHERE seq IN ({marks(len(seqs))})"
            ),
            seqs,
        ),
    )


def _sqlite_titled(thread_id: str, after: bool) -> tuple[Statement, ...]:
    if not after:
        return (_sqlite_forget("threads", thread_id),)
    return (
        (
            (
                "INSERT INTO threads_search (rowid, tenant, title)"
                " SELECT seq, tenant, title FROM threads WHERE thread_id = ?"
            ),
            (thread_id,),
        ),
    )


def _sqlite_search(
    tenant: str, user_id: str, wanted: list[str], limit: int, kept: Callable[[str], Statement]
) -> Statement:
    # The tenant's words narrow the index scan; `t.tenant = ?` isolates the tenants.
    found_in = words(tenant)  # the index has no entry for a name of signs only, such as "-"
    scope = f'tenant : "{" ".join(found_in)}" AND ' if found_in else ""
    text = " AND ".join(f'"{word}"' for word in wanted) + "*"
    # Quoted words contain no query syntax: `words` yields \w characters only.
    message_query = f"{scope}content : ({text})"
    title_query = f"{scope}title : ({text})"
    mine = "m.thread_id = t.thread_id AND m.tenant = ? AND m.user_id = ?"
    (thread_kept, thread_values), (message_kept, message_values) = kept("t.updated_at"), kept("x.created_at")
    return (
        (
            "SELECT thread_id, title, message_id, snippet, created_at FROM ("
            f"SELECT * FROM (SELECT t.thread_id, t.title, '' AS message_id,"
            f" snippet(threads_search, 1, '[', ']', '…', {SNIPPET_WORDS}) AS snippet, t.created_at, rank AS score"
            " FROM threads_search JOIN threads t ON t.seq = threads_search.rowid"
            f" JOIN members m ON {mine} WHERE threads_search MATCH ? AND t.tenant = ?{thread_kept}"
            " ORDER BY rank LIMIT ?)"
            " UNION ALL "
            "SELECT * FROM (SELECT t.thread_id, t.title, x.message_id,"
            f" snippet(messages_search, 1, '[', ']', '…', {SNIPPET_WORDS}), x.created_at, rank"
            " FROM messages_search JOIN messages x ON x.seq = messages_search.rowid"
            " JOIN threads t ON t.thread_id = x.thread_id"
            f" JOIN members m ON {mine} WHERE messages_search MATCH ? AND t.tenant = ?{message_kept}"
            " ORDER BY rank LIMIT ?)"
            ") AS hits ORDER BY score, created_at DESC LIMIT ?"
        ),
        (
            *(tenant, user_id, title_query, tenant, *thread_values, limit),
            *(tenant, user_id, message_query, tenant, *message_values, limit),
            limit,
        ),
    )


SQLITE: Final = Dialect(
    serial="INTEGER PRIMARY KEY",
    lock=None,
    lock_patience=None,
    hold="",
    seize="",
    take="",
    clock="steady()",  # the engine's: `stores/sqlite.py`
    numbered="UPDATE counters SET value = value + 1 WHERE name = 'runs' RETURNING value",
    places_schema=(
        """CREATE TRIGGER messages_placed AFTER INSERT ON messages WHEN NEW.place = 0 BEGIN
           UPDATE messages SET place = (SELECT max(place) + (max(place) > 0) FROM messages
           WHERE thread_id = NEW.thread_id) WHERE seq = NEW.seq; END""",
        """CREATE TRIGGER runs_placed AFTER INSERT ON runs WHEN NEW.number = 0 BEGIN
           UPDATE counters SET value = value + 1 WHERE name = 'runs';
           UPDATE runs SET number = (SELECT value FROM counters WHERE name = 'runs'),
           queue_place = (SELECT max(queue_place) FROM runs WHERE thread_id = NEW.thread_id)
           WHERE run_id = NEW.run_id; END""",
    ),
    search_schema=(
        # External content, so that the index holds no second copy of the text.
        (
            "CREATE VIRTUAL TABLE threads_search USING fts5"
            " (tenant, title, content='threads', content_rowid='seq', tokenize='unicode61 remove_diacritics 2')"
        ),
        (
            "CREATE VIRTUAL TABLE messages_search USING fts5"
            " (tenant, content, content='messages', content_rowid='seq', tokenize='unicode61 remove_diacritics 2')"
        ),
    ),
    search_added=_sqlite_added,
    search_removed=_sqlite_removed,
    search_pruned=_sqlite_pruned,
    search_titled=_sqlite_titled,
    search=_sqlite_search,
)


def _postgres_search(
    tenant: str, user_id: str, wanted: list[str], limit: int, kept: Callable[[str], Statement]
) -> Statement:
    query = " & ".join(wanted) + ":*"  # words contain no query syntax
    headline = f"'StartSel=[, StopSel=], MaxWords={SNIPPET_WORDS}, MinWords=4, MaxFragments=1'"
    mine = "m.thread_id = t.thread_id AND m.tenant = ? AND m.user_id = ?"
    (thread_kept, thread_values), (message_kept, message_values) = kept("t.updated_at"), kept("x.created_at")
    return (
        (
            "SELECT thread_id, title, message_id, snippet, created_at FROM ("
            f"(SELECT t.thread_id, t.title, '' AS message_id, ts_headline('simple', t.title, q, {headline}) AS snippet,"
            " t.created_at, ts_rank(to_tsvector('simple', t.title), q) AS score"
            f" FROM to_tsquery('simple', ?) AS q CROSS JOIN threads t JOIN members m ON {mine}"
            f" WHERE t.tenant = ? AND to_tsvector('simple', t.title) @@ q{thread_kept} ORDER BY score DESC LIMIT ?)"
            " UNION ALL "
            f"(SELECT t.thread_id, t.title, x.message_id, ts_headline('simple', x.content, q, {headline}),"
            " x.created_at, ts_rank(to_tsvector('simple', left(x.content, 200000)), q) AS score"
            " FROM to_tsquery('simple', ?) AS q CROSS JOIN messages x JOIN threads t ON t.thread_id = x.thread_id"
            f" JOIN members m ON {mine}"
            f" WHERE t.tenant = ? AND to_tsvector('simple', left(x.content, 200000)) @@ q{message_kept}"
            " ORDER BY score DESC LIMIT ?)"
            ") AS hits ORDER BY score DESC, created_at DESC LIMIT ?"
        ),
        (
            *(query, tenant, user_id, tenant, *thread_values, limit),
            *(query, tenant, user_id, tenant, *message_values, limit),
            limit,
        ),
    )


def _nothing(*_: object) -> tuple[Statement, ...]:
    """No statements: PostgreSQL updates its expression indexes itself."""
    return ()


POSTGRES: Final = Dialect(
    serial="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    lock="SELECT pg_advisory_xact_lock(hashtextextended(?, 0))",
    lock_patience="SET LOCAL lock_timeout = '3s'",  # every later query waits behind a waiting ALTER TABLE
    hold=" FOR KEY SHARE",  # compatible with updates of the same row, not with its deletion
    seize=" FOR UPDATE",
    take=" FOR UPDATE OF t SKIP LOCKED",
    clock="extract(epoch from clock_timestamp())::float8",
    numbered="SELECT nextval('run_numbers')",
    places_schema=(
        "CREATE SEQUENCE run_numbers",
        """CREATE FUNCTION narthex_place_message() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.place := coalesce((SELECT max(place) + CASE WHEN max(place) > 0 THEN 1 ELSE 0 END FROM messages
           WHERE thread_id = NEW.thread_id), 0);
           RETURN NEW; END $$""",
        """CREATE TRIGGER messages_placed BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.place = 0)
           EXECUTE FUNCTION narthex_place_message()""",
        """CREATE FUNCTION narthex_place_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.number := nextval('run_numbers');
           NEW.queue_place := coalesce((SELECT max(queue_place) FROM runs WHERE thread_id = NEW.thread_id), 0);
           RETURN NEW; END $$""",
        """CREATE TRIGGER runs_placed BEFORE INSERT ON runs FOR EACH ROW WHEN (NEW.number = 0)
           EXECUTE FUNCTION narthex_place_run()""",
    ),
    search_schema=(
        "CREATE INDEX threads_search ON threads USING gin (to_tsvector('simple', title))",
        # A tsvector holds at most 1 MB: the first 200,000 characters of a message are searched.
        "CREATE INDEX messages_search ON messages USING gin (to_tsvector('simple', left(content, 200000)))",
    ),
    search_added=_nothing,
    search_removed=_nothing,
    search_pruned=_nothing,
    search_titled=_nothing,
    search=_postgres_search,
)
