"""Every metric of narthex, once: kind, name, labels, buckets and a line for people.

Not here: counting (`metrics.py`). Rules: a name is used in the code only if it stands here (a test walks the
sources); labels are closed sets, never an id, a path or a text of a client; docs/operations.md is generated from
this table, and alert rules and dashboards script against it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

PREFIX: Final = "narthex_"

QUICK_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: an unhindered handshake is under a millisecond, its deadline is 10 s."""

LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: no slice of a fan-out may hold the loop over 20 ms."""

Mode = Literal["all", "livesum", "livemax", "livemostrecent"]


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: without the prefix and without a counter's `_total`.
        mode: how the processes of one gateway add up (gauges only).
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()
    mode: Mode = "livesum"

    @property
    def full_name(self) -> str:
        """As it is scraped."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric("counter", name, labels, text)


def _gauge(name: str, text: str, *labels: str, mode: Mode = "livesum") -> Metric:
    return Metric("gauge", name, labels, text, mode=mode)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = QUICK_BUCKETS) -> Metric:
    return Metric("histogram", name, labels, text, buckets)


CATALOGUE: Final = (
    _counter("handshakes", "Handshakes by outcome and refusal code.", "outcome", "code", "class"),
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
    _counter("e2e_admissions", "Attempts to be admitted as a test identity.", "result"),
    _counter("e2e_tests", "End-to-end tests reported by runners.", "result"),
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
        "loop_lag_seconds", "Delay of an event loop timer, measured ten times a second.", buckets=LAG_BUCKETS
    ),
    _counter("channels_behind", "Channels that this node found behind the log and re-read."),
    _counter(
        "loop_held", "Times that code blocked the event loop for 1 s or longer; the log names the code.", "by"
    ),
    _counter("recoveries", "Recoveries requested by clients.", "result"),
    _counter("messages_ignored", "Client messages that no handler accepts.", "reason"),
    _counter("presence_failures", "Presence updates that the broker did not accept.", "reason"),
    _counter("runs", "Agent runs that ended.", "state", "error"),
    _gauge("runs_active", "Runs that this gateway owns now."),
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
    _counter("history_purged", "Rows deleted because the owner's plan no longer keeps them.", "kind"),
    _counter("history_purge_failures", "Failed purges of history that plans no longer keep."),
    _gauge(
        "history_purge_timestamp_seconds",
        "Time at which the last complete purge ended, in seconds since the epoch.",
        mode="livemostrecent",
    ),
    _counter("bugs", "Unexpected exceptions; each has a trace id in the log.", "where"),
    _counter("undeclared_metrics", "Uses of a metric that the catalogue does not know. Must stay 0."),
)
"""In the order of docs/operations.md."""
