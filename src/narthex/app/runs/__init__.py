"""Runs agents: claiming, driving, journalling and ending runs, and taking over runs of dead owners.

    engine.py          entry points: open, drain, close, start
    requests.py        operations on an existing run: cancel, steer, resume, get
    loops.py           the node's four loops: claim queued runs, renew leases, take over orphans, close cancelled runs
    observed.py        leases of other nodes: detects dead owners by watching
    closing.py         the end of a run that was cancelled in the queue
    execution.py       one run on this node, from RUN_STARTED to its terminal event
    endings.py         how a run can end, as values
    session.py         one agent coroutine, which may live through several runs (`ask`)
    intake.py          an agent's output → legal, bounded AG-UI events
    journal.py         events → the channel's log: seq, joining, one publish in flight, count and digest
    lease.py           whether this node still owns a run
    run_log_state.py   a run read back from the log
    local_runs.py      the runs of this node; ending or restarting one whose owner is gone
    compaction.py      a finished run → message rows
    conversation.py    message rows → an agent's input
    services.py        shared by all of them; limits

Not here: users' messages and permissions in threads (app/chat), the rules (domain/runs, event_order, digest).
"""
