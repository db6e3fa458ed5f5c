"""Every metric of narthex, once: kind, name, labels, buckets and a line for people.

Not here: counting (`metrics.py`). Rules: a name is used in the code only if it stands here (a test walks the
sources); labels are closed sets, never an id, a path or a text of a client; docs/operations.md is generated from
this table, and alert rules and dashboards script against it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from narthex.domain.refusals import TABLE

PREFIX: Final = "narthex_"

QUICK_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: an unhindered handshake is under a millisecond, its deadline is 10 s."""

LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: no slice of a fan-out may hold the loop over 20 ms."""

SLOW_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: an agent's run is a second to ten minutes."""

ENGINE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Seconds: fewer, because there is one histogram for each of some 100 operations; 10 s is the longest time-out."""

SIZE_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

Mode = Literal["all", "livesum", "livemax", "livemin", "livemostrecent"]
LabelSets = tuple[tuple[str, ...], ...]


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: without the prefix and without a counter's `_total`.
        mode: how the processes of one gateway add up (gauges only): of a limit in time the earliest counts, of a state
            the worst.
        from_start: label sets of a counter that are shown before their first event. Prometheus sees an increase only
            between two values, so that the first event of a series that begins with it would fire no alert.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()
    mode: Mode = "livesum"
    from_start: LabelSets = ()

    @property
    def full_name(self) -> str:
        """As it is scraped."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


def _counter(name: str, text: str, *labels: str, from_start: LabelSets = ()) -> Metric:
    return Metric("counter", name, labels, text, from_start=from_start)


def _gauge(name: str, text: str, *labels: str, mode: Mode = "livesum") -> Metric:
    return Metric("gauge", name, labels, text, mode=mode)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = QUICK_BUCKETS) -> Metric:
    return Metric("histogram", name, labels, text, buckets)


OF_DEPLOYS: Final = frozenset({"starting", "draining"})
"""A deploy's own refusals: clients go to another instance."""

OWN_FAULTS: Final = tuple(
    code
    for code, row in TABLE.items()
    if row.http is not None and row.http >= 500
    if code not in OF_DEPLOYS and not code.startswith("upstream_")
)
"""The gateway's own faults in `handshakes`. Those of the server behind a guard come after the admission, and only
`upstream_handshakes` counts them.
"""

CATALOGUE: Final = (
    _counter(
        "handshakes",
        "Handshakes by outcome and refusal code.",
        *("outcome", "code", "class"),
        from_start=(("admitted", "ok", "user"), *(("refused", code, "user") for code in OWN_FAULTS)),
    ),
    _histogram("handshake_seconds", "From the request head to the decision."),
    _counter("credential_extractions", "Credentials found in handshakes, by carrier.", "carrier", "result"),
    _gauge("connections_active", "Live connections.", "class"),
    _counter("connections_evicted", "Idle connections and unread answers closed at a limit.", "reason"),
    _counter("http_rate_limited", "HTTP requests refused because there were too many.", "by"),
    _counter(
        "upstream_handshakes", "Handshakes of `narthex guard` with the server behind, by result.", "result"
    ),
    _gauge("descriptors", "Limit of files that the process may have open.", mode="livemostrecent"),
    _counter("disconnects", "Closed connections by close code.", "code"),
    _counter(
        "e2e_admissions",
        "Attempts to be admitted as a test identity.",
        "result",
        from_start=(("admitted",), ("wrong_key",), ("wrong_token",), ("rate_limited",)),
    ),
    _counter(
        "e2e_tests",
        "End-to-end tests reported by runners.",
        "result",
        from_start=(("passed",), ("failed",), ("skipped",)),
    ),
    _gauge(
        "breaker_state",
        "Circuit breaker: closed 0, half_open 1, open 2.",
        "dependency",
        "class",
        mode="livemax",
    ),
    _gauge(
        "health_status", "Last health check: healthy 0, degraded 1, unhealthy 2.", "check", mode="livemax"
    ),
    _gauge("info", "Always 1; its labels name the build.", "version", "environment", mode="livemostrecent"),
    _gauge("auth_bypass_active", "1 while test identities are admitted.", mode="livemax"),
    _counter("events_lost", "Acknowledged events that could not be recovered. Must stay 0."),
    _histogram(
        "loop_lag_seconds", "Delay of an event loop timer, measured four times a second.", buckets=LAG_BUCKETS
    ),
    _counter("channels_behind", "Channels that this node found behind the log and re-read."),
    _counter(
        "loop_held", "Times that code blocked the event loop for 1 s or longer; the log names the code.", "by"
    ),
    _counter("recoveries", "Recoveries requested by clients.", "result"),
    _counter("messages_ignored", "Client messages that no handler accepts.", "reason"),
    _counter("presence_failures", "Presence updates that the broker did not accept.", "reason"),
    _counter("publications", "Publications that the broker delivered to this node's subscribed channels."),
    _counter(
        "deliveries", "Publications, joins and leaves written to subscribers, the deferred ones among them."
    ),
    _counter("deliveries_deferred", "Deliveries kept for a slow client until it reads."),
    _counter("deltas_merged", "Text deltas merged into the one before them for a slow client."),
    _counter("delivered_bytes", "Payload bytes of `narthex_deliveries_total`."),
    _counter("messages_received", "WebSocket messages of clients."),
    _counter("received_bytes", "Payload bytes of `narthex_messages_received_total`."),
    _counter("reply_bytes", "Payload bytes of replies to clients."),
    _gauge("clients_lagging", "Clients that do not read as fast as the server writes."),
    _gauge("client_backlog_bytes", "Bytes kept for lagging clients."),
    _gauge("client_lag_max_seconds", "Longest present lag of a client.", mode="livemax"),
    _histogram(
        "client_lag_seconds",
        "How long each slow client lagged, until it had read everything or was closed.",
        buckets=(*LAG_BUCKETS, 10.0, 20.0),
    ),
    _counter("slow_closes", "Slow clients closed (3008), by the limit that they exceeded.", "limit"),
    _gauge("subscriptions", "Subscriptions of live connections."),
    _gauge("channels", "Channels that this node follows."),
    _counter("commands", "Client commands by method, and `ok` or the error's code.", "method", "result"),
    _histogram(
        "command_seconds",
        "From a command's start to its reply.",
        "method",
        buckets=ENGINE_BUCKETS,
    ),
    _counter("sign_ins", "Sign-ins at the embedded provider, by way and result.", "method", "result"),
    _counter("token_refreshes", "Refreshes of tokens and sessions.", "surface", "result"),
    _counter("revocations", "Revocations of tokens, sessions and users that this node stored.", "kind"),
    _gauge("revocations_active", "Revocations that have not expired.", mode="livemax"),
    _counter("runs", "Agent runs that ended.", "state", "error"),
    _histogram("run_seconds", "From run.start to the run's end.", "state", buckets=SLOW_BUCKETS),
    _counter("run_tokens", "Tokens that models reported for runs that ended.", "agent", "kind"),
    _gauge("runs_active", "Runs that this gateway owns now."),
    _gauge("runs_queued", "Runs that wait in the store for a node, of all nodes.", mode="livemax"),
    _gauge("run_queue_seconds", "Age of the oldest queued run that a node could start.", mode="livemax"),
    _gauge("runs_waiting", "Agents that wait for an answer on this node."),
    _histogram("run_start_seconds", "From run.start to the run's first event."),
    _histogram("run_cancel_seconds", "From run.cancel to the agent's end."),
    _counter("run_deltas_joined", "Text deltas joined at the source."),
    _counter("run_publish_retries", "Publishes of run events that had to be repeated."),
    _counter("run_notices_lost", "Notices about runs that could not be published."),
    _counter("run_loop_failures", "Failed rounds of the run engine's loops.", "loop"),
    _counter("run_bugs", "Runs ended by a bug in narthex."),
    _counter("runs_lost", "Runs whose lease was lost to another instance."),
    _counter("runs_taken_over", "Runs taken over from an instance that died."),
    _counter("agents_left_behind", "Agents that did not stop when cancelled."),
    _histogram(
        "engine_seconds",
        "Latency of the broker and the store.",
        "engine",
        "operation",
        buckets=ENGINE_BUCKETS,
    ),
    _counter("engine_failures", "Failed operations of the broker and the store.", "engine", "operation"),
    _histogram(
        "journal_batch_size",
        "Events of runs in one publish: deltas joined at the source.",
        buckets=SIZE_BUCKETS,
    ),
    _gauge("buffer_fill", "Entries in a bounded buffer, queue or table.", "buffer"),
    _gauge("buffer_limit", "Limit of the same buffer.", "buffer"),
    _gauge(
        "buffer_used_ratio",
        "Fill of a buffer as a share of its limit, in the process where it is fullest.",
        "buffer",
        mode="livemax",
    ),
    _gauge("lifecycle_state", "Node: starting 0, ready 1, draining 2, stopped 3.", mode="livemax"),
    _gauge("drain_remaining", "Connections and runs that a draining node has left.", "of"),
    _gauge(
        "keys_fetched_timestamp_seconds",
        "Last successful fetch of an issuer's keys, in seconds since the epoch; 0: none yet. Of several processes the "
        "one with the oldest keys counts.",
        "issuer",
        mode="livemin",
    ),
    _counter("key_fetches", "Fetches of issuers' keys.", "issuer", "result"),
    _gauge(
        "key_expiry_timestamp_seconds",
        "Earliest end of a key or certificate in use, in seconds since the epoch; `tls:broker`, `tls:store`: of the "
        "engine's server.",
        "key",
        mode="livemin",
    ),
    _gauge(
        "e2e_success_ratio",
        "Passed share of the tests of the last reported end-to-end run.",
        mode="livemostrecent",
    ),
    _gauge(
        "e2e_reported_timestamp_seconds",
        "Time of the last report of an end-to-end run, in seconds since the epoch.",
        mode="livemax",
    ),
    _counter("history_purged", "Rows deleted because the owner's plan no longer keeps them.", "kind"),
    _counter("history_purge_failures", "Failed purges of history that plans no longer keep."),
    _gauge(
        "history_purge_timestamp_seconds",
        "Time at which the last complete purge ended, in seconds since the epoch.",
        mode="livemostrecent",
    ),
    _counter("bugs", "Unexpected exceptions; the log has each with its trace id or run id.", "where"),
    _counter(
        "trace_spans",
        "Spans by fate: exported, dropped (the queue was full), failed (the collector did not take them).",
        "result",
    ),
    _counter("undeclared_metrics", "Uses of a metric that the catalogue does not know. Must stay 0."),
)
"""In the order of docs/operations.md."""
