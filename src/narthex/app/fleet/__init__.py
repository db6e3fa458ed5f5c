"""The fleet as operators see it: each process's figures, live and over time, its connections, traces of one user.

Every process sends a snapshot of its own figures to all others, so that any of them answers for all. Not here: routes
(`web/api/operators`), the dashboard page (`web/` in the repository).
"""

from __future__ import annotations

from narthex.app.fleet.refusals import RecentRefusal, RecentRefusals
from narthex.app.fleet.snapshots import Snapshot, SnapshotBuilder
from narthex.app.fleet.view import FleetView

__all__ = ["FleetView", "RecentRefusal", "RecentRefusals", "Snapshot", "SnapshotBuilder"]
