"""Lies about positions, missed publications, and closes."""

from __future__ import annotations

from typing import Any

from tests.e2e.lies.registry import lie
from tests.e2e.lies.replies import Reply
from tests.e2e.lies.server import Lie, Line


@lie(
    {
        "smoke.a_dropped_line_comes_back": "was not recovered",
        "failure_recovery.a_dropped_line_resumes_without_a_gap": "was not recovered",
        "failure_recovery.five_drops_in_one_run": "was not recovered",
        "resilience.a_crowd_comes_back_at_once": "was not recovered",
        "resilience.ten_runs_through_a_drop_each": "recovered",
        "agent_pipeline.a_finished_run_is_one_read": "recovered",
    }
)
class NothingIsRecovered(Reply):
    """No position is recovered."""

    method = "subscribe"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["recovered"] = False


@lie({"failure_recovery.a_foreign_position_is_not_recovered_in_part": "another epoch was recovered"})
class AnyPositionIsRecovered(Reply):
    """`recovered: true` for a position of another epoch."""

    method = "subscribe"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["recovered"] = True


@lie(
    {
        "failure_recovery.a_dropped_line_resumes_without_a_gap": "expected seq|missing",
        "failure_recovery.five_drops_in_one_run": "expected seq|missing",
        "failure_recovery.disconnect_is_not_cancel": "expected seq|digest",
        "resilience.ten_runs_through_a_drop_each": "expected seq|missing",
        "resilience.a_crowd_comes_back_at_once": "expected seq|missing",
    }
)
class RecoveryHasAGap(Reply):
    """A recovery reports `recovered: true` but lacks one publication."""

    method = "subscribe"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        found = data.get("publications", [])
        if found:
            del found[len(found) // 2]


@lie({"failure_recovery.notices_are_recovered_too": "thread"})
class NoticesAreNotRecovered(Reply):
    """A `connect` that recovers the user's channel returns no publications."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        for sub in data["subs"].values():
            sub["publications"] = []


@lie(
    {
        "websocket.too_large_is_closed_by_name": "closed with 1000",
        "websocket.nothing_before_connect": "closed with 1000",
        "failure_recovery.a_bad_frame_ends_only_its_own_line": "3501",
        "security.deep_json_ends_only_its_own_line": "closed with 1000",
        "auth.a_bad_refresh_ends_it": "closed with 1000",
        "coordination.without_proof_there_is_nothing": "3500",
        "smoke.no_token_is_nobody": "closed with 1000",
    }
)
class EveryCloseIs1000(Lie):
    """Every close has code 1000."""

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return 1000, reason


@lie({"websocket.a_clean_goodbye": "closed with 1001"})
class GoodbyeHasAnotherCode(Lie):
    """A client's own close is answered with 1001."""

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return 1001, reason
