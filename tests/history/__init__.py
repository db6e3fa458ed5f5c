"""An independent checker of histories: it knows only the frames that clients sent and received, and it imports nothing
from `narthex`.

A campaign records the frames of its clients, and `check` names the broken guarantees. It never uses the product's own
code: a digest, a gap or a false `recovered: true` is derived here a second time, from the documents (docs/protocol.md,
docs/runs.md, docs/guarantees.md).

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
   `history`, `subscribe`, `connect` become the corresponding records.
3. Tell the recorder about events elsewhere: `attempted` and `acknowledged` around each publish of the server API
   (`tests.campaigns.writer.Writer(recorder=…)` does), `granted`/`removed`/`revoked` for rights that were changed
   over HTTP, `run_read` for a state that was read over HTTP, `log_read` for a whole log.
4. Record the injected faults and their ends: `with recorder.fault("route reset", excuses=(SILENCE,))`.
   While a fault that excuses a kind is active, and for the bound after it, that kind is not judged. Excuse as
   little as the guarantee allows; lost, twice, order and false recovery have no excuse.
5. `findings = check(recorder.history(), Bounds(...))`, then `assert not findings, report(findings)`. `summary`
   counts what was judged: assert on it as well, because an empty history breaks no promise.

`save` and `load` keep a history as JSON lines, so that a failing campaign can be examined later.

What is judged
--------------
See `tests.history.findings` for each kind. Not judged: whether an epoch changed without need (`summary` counts the
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
