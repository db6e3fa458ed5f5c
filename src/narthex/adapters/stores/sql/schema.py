"""Creates the tables, by numbered migrations that go forward only.

Not here: rows, which are the other modules'. Rules: a released migration never changes; each names the oldest program
version that can still read and write its result (`readable_from`): that of the previous release, so that a deploy can
be rolled back. Types: TEXT, BIGINT and DOUBLE PRECISION, which both engines have; moments are seconds since the epoch.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Operation
from narthex.errors import ConfigError

VERSION: Final = 7
INDEX: Final = "CREATE INDEX "


class Migration(NamedTuple):
    """One step. `{serial}` in a statement is the dialect's; `search` adds the dialect's full-text schema, `places` its
    triggers that place the rows which a program of the previous version inserts.
    """

    version: int
    readable_from: int
    statements: tuple[str, ...]
    search: bool = False
    places: bool = False


MIGRATIONS: Final = (
    Migration(
        version=1,
        readable_from=1,
        statements=(
            """CREATE TABLE threads (seq {serial}, thread_id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
               title TEXT NOT NULL, created_by TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
               updated_at DOUBLE PRECISION NOT NULL)""",
            "CREATE INDEX threads_by_creator ON threads (tenant, created_by, updated_at)",
            """CREATE TABLE members (thread_id TEXT NOT NULL, user_id TEXT NOT NULL, tenant TEXT NOT NULL,
               role TEXT NOT NULL, joined_at DOUBLE PRECISION NOT NULL, read_offset BIGINT NOT NULL,
               PRIMARY KEY (thread_id, user_id))""",
            "CREATE INDEX members_by_user ON members (tenant, user_id, thread_id)",
            # Ids of messages come from clients, so they are unique within their thread only.
            """CREATE TABLE messages (seq {serial}, message_id TEXT NOT NULL, thread_id TEXT NOT NULL,
               tenant TEXT NOT NULL, role TEXT NOT NULL, author TEXT NOT NULL, content TEXT NOT NULL,
               created_at DOUBLE PRECISION NOT NULL, run_id TEXT NOT NULL, detail TEXT NOT NULL,
               "offset" BIGINT NOT NULL, UNIQUE (thread_id, message_id))""",
            "CREATE INDEX messages_by_age ON messages (thread_id, created_at, seq)",
            """CREATE TABLE runs (run_id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, tenant TEXT NOT NULL,
               user_id TEXT NOT NULL, agent TEXT NOT NULL, state TEXT NOT NULL, client_message_id TEXT NOT NULL,
               message_id TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL, parent_run_id TEXT NOT NULL,
               concurrent_limit BIGINT NOT NULL, identity TEXT NOT NULL, traffic TEXT NOT NULL,
               started_at DOUBLE PRECISION NOT NULL, finished_at DOUBLE PRECISION NOT NULL,
               start_offset BIGINT NOT NULL, owner TEXT NOT NULL, lease_until DOUBLE PRECISION NOT NULL,
               attempt BIGINT NOT NULL, restartable BIGINT NOT NULL, cancel_requested_by TEXT NOT NULL,
               "count" BIGINT NOT NULL, digest TEXT NOT NULL, "text" TEXT NOT NULL, error TEXT NOT NULL,
               UNIQUE (tenant, user_id, client_message_id))""",
            "CREATE INDEX runs_by_thread ON runs (thread_id, created_at)",
            # Few runs are active at a time, so these stay small at any length of the history.
            "CREATE INDEX runs_queued ON runs (thread_id, created_at) WHERE state = 'queued'",
            "CREATE INDEX runs_running ON runs (thread_id) WHERE state = 'running'",
            "CREATE INDEX runs_of_user ON runs (tenant, user_id) WHERE state IN ('queued', 'running')",
            "CREATE INDEX runs_owned ON runs (owner) WHERE state IN ('queued', 'running')",
            """CREATE TABLE interrupts (interrupt_id TEXT NOT NULL, run_id TEXT NOT NULL, thread_id TEXT NOT NULL,
               tenant TEXT NOT NULL, "text" TEXT NOT NULL, "schema" TEXT NOT NULL,
               created_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION NOT NULL,
               answered_by TEXT NOT NULL, payload TEXT NOT NULL, resume_run_id TEXT NOT NULL, node TEXT NOT NULL,
               PRIMARY KEY (tenant, interrupt_id))""",
            "CREATE INDEX interrupts_by_thread ON interrupts (thread_id)",
            """CREATE TABLE users (user_id TEXT NOT NULL, tenant TEXT NOT NULL, email TEXT NOT NULL,
               name TEXT NOT NULL, plan TEXT NOT NULL, permissions TEXT NOT NULL, password_hash TEXT NOT NULL,
               created_at DOUBLE PRECISION NOT NULL, blocked_at DOUBLE PRECISION NOT NULL,
               PRIMARY KEY (tenant, user_id), UNIQUE (tenant, email))""",
            """CREATE TABLE tickets (ticket_hash TEXT PRIMARY KEY, identity TEXT NOT NULL,
               expires_at DOUBLE PRECISION NOT NULL)""",
            "CREATE INDEX tickets_by_expiry ON tickets (expires_at)",
            """CREATE TABLE refresh_tokens (token_hash TEXT PRIMARY KEY, family TEXT NOT NULL,
               tenant TEXT NOT NULL, user_id TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
               expires_at DOUBLE PRECISION NOT NULL, used_at DOUBLE PRECISION NOT NULL)""",
            "CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family)",
            "CREATE INDEX refresh_tokens_by_user ON refresh_tokens (tenant, user_id)",
            "CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at)",
            """CREATE TABLE signing_keys (kid TEXT PRIMARY KEY, purpose TEXT NOT NULL, algorithm TEXT NOT NULL,
               jwk TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL, not_before DOUBLE PRECISION NOT NULL,
               retire_at DOUBLE PRECISION NOT NULL)""",
            """CREATE TABLE revocations (kind TEXT NOT NULL, tenant TEXT NOT NULL, value TEXT NOT NULL,
               "at" DOUBLE PRECISION NOT NULL, "until" DOUBLE PRECISION NOT NULL, cut DOUBLE PRECISION NOT NULL,
               reason TEXT NOT NULL, PRIMARY KEY (kind, tenant, value))""",
            'CREATE INDEX revocations_by_end ON revocations ("until")',
            """CREATE TABLE audits (seq {serial}, "at" DOUBLE PRECISION NOT NULL, kind TEXT NOT NULL,
               tenant TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL, trace_id TEXT NOT NULL)""",
            "CREATE INDEX audits_by_kind ON audits (kind, seq)",
            """CREATE TABLE results (test_run TEXT PRIMARY KEY, "at" DOUBLE PRECISION NOT NULL,
               environment TEXT NOT NULL, passed BIGINT NOT NULL, failed BIGINT NOT NULL, skipped BIGINT NOT NULL,
               duration_s DOUBLE PRECISION NOT NULL, report TEXT NOT NULL)""",
            'CREATE INDEX results_by_age ON results ("at")',
            # Unused: the status page has a database of its own. The version before this one may still look for it.
            """CREATE TABLE samples (seq {serial}, "at" DOUBLE PRECISION NOT NULL, component TEXT NOT NULL,
               status TEXT NOT NULL, latency_ms DOUBLE PRECISION NOT NULL)""",
            'CREATE INDEX samples_by_age ON samples ("at")',
            'CREATE INDEX samples_by_component ON samples (component, "at")',
            "CREATE TABLE pings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
        search=True,
    ),
    Migration(
        version=2,
        readable_from=1,  # version 1 names its columns: its rows get the defaults, and so are kept
        statements=(
            # The owner's plan, the `iat` of the token that said so, and a moment before which the thread has no rows.
            "ALTER TABLE threads ADD COLUMN plan TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE threads ADD COLUMN plan_at DOUBLE PRECISION NOT NULL DEFAULT 0",
            "ALTER TABLE threads ADD COLUMN oldest_at DOUBLE PRECISION NOT NULL DEFAULT 0",
            # The plans of the provider's users are known. Other issuers' users get theirs when they connect: their
            # threads, which may be millions, are not updated here, because a statement has 10 s.
            """UPDATE threads SET plan = u.plan FROM users u
               WHERE u.tenant = threads.tenant AND u.user_id = threads.created_by""",
            "CREATE INDEX threads_by_oldest ON threads (plan, oldest_at) WHERE plan <> ''",
            """CREATE TABLE log_cuts (seq {serial}, thread_id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
               "before" DOUBLE PRECISION NOT NULL)""",
            # Numbered in the order of commit, so that a reader that has read up to a number reads only later changes.
            # 0: a version 1 wrote it.
            "CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
            "ALTER TABLE revocations ADD COLUMN change BIGINT NOT NULL DEFAULT 0",
            """UPDATE revocations SET change = numbered.number FROM (SELECT kind, tenant, value,
               row_number() OVER (ORDER BY "at", kind, tenant, value) AS number FROM revocations) AS numbered
               WHERE numbered.kind = revocations.kind AND numbered.tenant = revocations.tenant
               AND numbered.value = revocations.value""",
            "INSERT INTO counters (name, value) SELECT 'revocations', COALESCE(max(change), 0) FROM revocations",
            "CREATE INDEX revocations_by_change ON revocations (change)",
        ),
    ),
    Migration(
        version=3,
        # New tables, and columns with defaults: version 2 still adds members without an invitation, and its sessions
        # have no environment, so that version 3 ends them.
        readable_from=2,
        statements=(
            """CREATE TABLE invitations (thread_id TEXT NOT NULL, tenant TEXT NOT NULL, user_id TEXT NOT NULL,
               invited_by TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL, member_limit BIGINT NOT NULL,
               inviter_name TEXT NOT NULL, hidden BIGINT NOT NULL, PRIMARY KEY (thread_id, user_id))""",
            "CREATE INDEX invitations_of_user ON invitations (tenant, user_id, created_at)",
            """CREATE TABLE blocks (tenant TEXT NOT NULL, user_id TEXT NOT NULL, blocked_id TEXT NOT NULL,
               created_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (tenant, user_id, blocked_id))""",
            """CREATE TABLE additions (tenant TEXT NOT NULL, user_id TEXT NOT NULL, day BIGINT NOT NULL,
               used BIGINT NOT NULL, PRIMARY KEY (tenant, user_id, day))""",
            "ALTER TABLE refresh_tokens ADD COLUMN environment TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE refresh_tokens ADD COLUMN source TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE refresh_tokens ADD COLUMN signed_in_at DOUBLE PRECISION NOT NULL DEFAULT 0",
            # The users who may answer a question: see `ports.runs.Interrupt`.
            "ALTER TABLE interrupts ADD COLUMN answerable_by TEXT NOT NULL DEFAULT ''",
            # The message of the event that a failed run ended with, so that later readers of the thread see it too.
            "ALTER TABLE runs ADD COLUMN error_message TEXT NOT NULL DEFAULT ''",
        ),
    ),
    Migration(
        version=4,
        readable_from=2,  # versions 2 and 3 name their columns; a trigger places their rows
        places=True,
        statements=(
            # A lease is alive while it changes: `beat` counts its renewals, independent of clocks.
            "ALTER TABLE runs ADD COLUMN beat BIGINT NOT NULL DEFAULT 0",
            # The log that `start_offset` is an offset of; empty: a version 2 wrote it.
            "ALTER TABLE runs ADD COLUMN start_epoch TEXT NOT NULL DEFAULT ''",
            # Order of runs: in their thread by the place of their message in the log, across threads by arrival.
            # (Not `place`: a query of version 2 gives that name to something else.)
            "ALTER TABLE runs ADD COLUMN queue_place BIGINT NOT NULL DEFAULT 0",
            "ALTER TABLE runs ADD COLUMN number BIGINT NOT NULL DEFAULT 0",
            # 1: it was cancelled in the queue, and its terminal event is not known to be in the log.
            "ALTER TABLE runs ADD COLUMN unclosed BIGINT NOT NULL DEFAULT 0",
            "CREATE INDEX runs_unclosed ON runs (run_id) WHERE unclosed = 1",
            "CREATE INDEX runs_by_place ON runs (thread_id, queue_place, number)",
            # Active runs in the complete order of a queue: with fewer columns SQLite sorts by `runs_by_place`, and so
            # reads every run that there ever was.
            """CREATE INDEX runs_active ON runs (thread_id, queue_place, number, created_at, run_id)
               WHERE state IN ('queued', 'running')""",
            "INSERT INTO counters (name, value) VALUES ('runs', 0)",
            # Order of messages: `place` is the log's offset of the first event, made to ascend across epochs by the
            # epoch's base. `said_after` is the log's end before a message was published, -1 once that is done.
            "ALTER TABLE messages ADD COLUMN place BIGINT NOT NULL DEFAULT 0",
            "ALTER TABLE messages ADD COLUMN epoch TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE messages ADD COLUMN said_after BIGINT NOT NULL DEFAULT -1",
            "CREATE INDEX messages_by_place ON messages (thread_id, place, created_at, seq)",
            """CREATE TABLE log_epochs (thread_id TEXT NOT NULL, epoch TEXT NOT NULL, base BIGINT NOT NULL,
               PRIMARY KEY (thread_id, epoch))""",
            # At most one link per thread. Its token is not stored: `digest` is the token's SHA-256.
            """CREATE TABLE thread_links (thread_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, digest TEXT NOT NULL,
               created_by TEXT NOT NULL, creator_name TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
               expires_at DOUBLE PRECISION NOT NULL, member_limit BIGINT NOT NULL, additions BIGINT NOT NULL)""",
            "CREATE UNIQUE INDEX thread_links_by_digest ON thread_links (tenant, digest)",
        ),
    ),
    Migration(
        version=5,
        readable_from=2,  # new tables, and a column with a default: runs of earlier versions are in no trace
        statements=(
            # Figures for the dashboard, at falling resolution (`app/fleet/history.py`).
            """CREATE TABLE history (resolution BIGINT NOT NULL, "at" BIGINT NOT NULL, node TEXT NOT NULL,
               data TEXT NOT NULL, PRIMARY KEY (resolution, "at", node))""",
            # Saved reports of `narthex bench` and `narthex gate`.
            """CREATE TABLE baselines (seq {serial}, "at" DOUBLE PRECISION NOT NULL, kind TEXT NOT NULL,
               version TEXT NOT NULL, machine TEXT NOT NULL, figures TEXT NOT NULL)""",
            "ALTER TABLE runs ADD COLUMN trace TEXT NOT NULL DEFAULT ''",
        ),
    ),
    Migration(
        version=6,
        readable_from=2,  # columns with defaults and new tables: earlier versions run such runs without their input
        statements=(
            # The id that an AG-UI client gave the run; several runs may have one.
            "ALTER TABLE runs ADD COLUMN client_run_id TEXT NOT NULL DEFAULT ''",
            "CREATE INDEX runs_by_client_run ON runs (tenant, client_run_id) WHERE client_run_id <> ''",
            "ALTER TABLE runs ADD COLUMN \"usage\" TEXT NOT NULL DEFAULT '[]'",
            # JSON of what AG-UI knows of a question beyond its text, and how it was answered.
            "ALTER TABLE interrupts ADD COLUMN detail TEXT NOT NULL DEFAULT '{}'",
            "ALTER TABLE interrupts ADD COLUMN status TEXT NOT NULL DEFAULT ''",
            # What a client sent beside the message, until the run is over: up to 256 KB, which reads of runs leave out.
            """CREATE TABLE run_inputs (run_id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, tenant TEXT NOT NULL,
               input TEXT NOT NULL)""",
            "CREATE INDEX run_inputs_by_thread ON run_inputs (thread_id)",
            # The state of each agent of a thread, as its last run left it.
            """CREATE TABLE agent_states (thread_id TEXT NOT NULL, agent TEXT NOT NULL, tenant TEXT NOT NULL,
               state TEXT NOT NULL, PRIMARY KEY (thread_id, agent))""",
        ),
    ),
    Migration(
        version=7,
        readable_from=2,  # a column with a default: runs that earlier versions end have no result
        statements=("ALTER TABLE runs ADD COLUMN result TEXT NOT NULL DEFAULT 'null'",),
    ),
)


def migrate(dialect: Dialect, name: str, now: float, version: int = VERSION) -> Operation[int]:
    """Migrate the schema to `version`; returns the version that the database has then.

    Raises:
        ConfigError: the database is newer than this program, which can no longer read it; `name` names it.
    """
    if dialect.lock is not None:  # instances start together: one migrates, the others wait for it
        yield dialect.lock, ("narthex schema",)
    yield (
        (
            "CREATE TABLE IF NOT EXISTS schema_versions"
            " (version BIGINT PRIMARY KEY, readable_from BIGINT NOT NULL, applied_at DOUBLE PRECISION NOT NULL)"
        ),
        (),
    )
    rows = yield "SELECT version, readable_from FROM schema_versions ORDER BY version DESC LIMIT 1", ()
    found, readable_from = rows[0] if rows else (0, 0)
    if readable_from > version:
        raise ConfigError(
            [f"{name} has schema {found}, but this narthex knows {version}: start the newer one."]
        )
    if found < version and dialect.lock_patience is not None:
        yield dialect.lock_patience, ()
    later = found > 0 and dialect.lock_patience is not None
    for migration in MIGRATIONS:
        if not found < migration.version <= version:
            continue
        for statement in _statements(migration, dialect):
            if not (later and statement.startswith(INDEX)):
                yield statement.replace("{serial}", dialect.serial), ()
        yield (
            "INSERT INTO schema_versions (version, readable_from, applied_at) VALUES (?, ?, ?)",
            (migration.version, migration.readable_from, now),
        )
        found = migration.version
    return int(found)


def indexes(dialect: Dialect) -> dict[str, str]:
    """The statement of every index that is not unique, by name: where `migrate` leaves them, they are built later."""
    statements = (statement for migration in MIGRATIONS for statement in _statements(migration, dialect))
    return {statement.split()[2]: statement for statement in statements if statement.startswith(INDEX)}


def _statements(migration: Migration, dialect: Dialect) -> tuple[str, ...]:
    more = (*dialect.search_schema * migration.search, *dialect.places_schema * migration.places)
    return migration.statements + more
