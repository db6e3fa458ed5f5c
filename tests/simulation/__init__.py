"""Deterministic simulation: three nodes of the app core over a simulated log, store, clock and network, in one process.

The classes of `narthex.app` run unmodified; only ports, event loop and clocks are replaced, so that a history of a
minute takes milliseconds and every interleaving, delay, loss, repetition, partition, crash, restart, clock step and
engine fault is drawn from one seed. The frames that the clients of a history receive are judged by `tests.history`,
which shares no code with the product.

    python -m tests.simulation --seeds 1..2000            # over all cores, with progress; failing seeds are printed
    python -m tests.simulation --seed 42                  # one seed: its steps, its findings
    python -m tests.simulation --seed 42 --shrink         # the fewest steps that still fail
    python -m tests.simulation --seeds 1..5000 --mutant keeps-its-epoch   # how soon a seeded fault is found
    python -m tests.simulation --mutants                  # the table of all of them

A failing seed replays exactly: the same seed and the same code give the same history, record by record (string hashing
is fixed by the command line, PYTHONHASHSEED=0).

Modules: `plan` (the steps, from a seed), `world` (executes a plan), `node` (the composed app), `client` (users), `log`
and `store` (engines, with the list of their permitted faults), `network`, `clock`, `loop`, `shrink`,
`mutants` (seeded faults of the app and of the engines, which the simulation must find).

Not simulated: adapters (the SQL is real, on SQLite in memory; the brokers' adapters are not), sockets, HTTP, tokens.
The campaigns (tests/campaigns) cover their faults.
"""
