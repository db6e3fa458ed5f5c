"""An independent judge of histories: it knows only what clients were told, and it imports nothing from `narthex`.

A campaign writes down what its clients sent and received, and `check` says which promises were broken. The product's
own code is never asked: a digest, a gap or a false `recovered: true` is worked out here a second time, from the
documents (docs/protocol.md, docs/runs.md, docs/guarantees.md).

How a campaign uses it
----------------------
1. Make one `Recorder` for the whole campaign. Its clock is `time.monotonic` unless another is given; all records
   must come from that one clock, because "acknowledged before" is judged by it.
2. Feed each WebSocket connection through a `Tap`:

       tap = recorder.connection("alice-phone", user="alice")   # a reader: one device over all its connections
       tap.sent(text)          # every frame that the client sends
       tap.received(payload)   # every frame that it gets, whole; pings may be passed in too
       tap.closed(code)        # the close code, or 1006

   `tests.acceptance.crowd.Client` (and so `Line`, `Follower`, `RawWatcher`) does this by itself once its attribute
   `tap` is set. Replies to `run.start`, `run.cancel`, `run.get`, `thread.get`, `thread.members.add|remove`,
   `history`, `subscribe`, `connect` become the records that they stand for.
3. Tell the recorder what happens elsewhere: `attempted` and `acknowledged` around each publish of the server API
   (`tests.campaigns.writer.Writer(recorder=…)` does), `granted`/`removed`/`revoked` for rights that were changed
   over HTTP, `run_read` for a state that was read over HTTP, `log_read` for a whole log.
4. Say which faults were injected, and when they were over: `with recorder.fault("route reset", excuses=(SILENCE,))`.
   While a fault that excuses a kind is active, and for the bound after it, that kind is not judged. Excuse as
   little as the guarantee allows; lost, twice, order and false recovery have no excuse.
5. `findings = check(recorder.history(), Bounds(...))`, then `assert not findings, report(findings)`. `summary`
   counts what was judged: assert on it as well, because an empty history breaks no promise.

`save` and `load` keep a history as JSON lines, so that a failing campaign can be looked at later.

What is judged
--------------
See `tests.history.findings` for each kind. What is not: whether an epoch changed without need (`summary` counts the
changes), presence, and anything about publications without an offset (typing notices).
"""

from tests.history.checker import check, summary
from tests.history.findings import Bounds, Finding, Kind, report
from tests.history.recorder import Recorder, Tap
from tests.history.records import Record, load, save

__all__ = [
    "Bounds",
    "Finding",
    "Kind",
    "Record",
    "Recorder",
    "Tap",
    "check",
    "load",
    "report",
    "save",
    "summary",
]
