"""What a number of connected sockets needs, and what breaks first on the way there: the table of docs/scaling.md.

Usage: python benchmarks/scaling.py [--write] [--runs-per-hour 2] [--run-s 15] [--busy 0.6] …
       prints the table; --write puts it into docs/scaling.md.

Here: arithmetic on measured figures, nothing is measured. Rules: every measured figure is a constant with its source;
what is assumed about people is a `Profile` and a flag; what a single part can carry is `CAPACITY`. Replace the
figures by those of your machines before you buy any.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- table: python benchmarks/scaling.py --write -->", "<!-- end of the table -->"

# Measured on two shared virtual cores; docs/performance.md and docs/guarantees.md say how.
SOCKET_KB = 5.1  # user memory of an idle, authenticated, subscribed socket
PROCESS_MB = 75.0  # a gateway with nobody connected, NATS and PostgreSQL adapters loaded
IDLE_US_S = 2.2  # CPU a socket and second: pings, pongs
CONNECT_US = 142.0  # handshake and connect
RECONNECT_US = 153.0  # of one with a position, in a storm
RUN_US_S = (
    2_300.0  # CPU a streaming run and second: 400 runs at 50 deltas/s, two sockets each, took 92 % of a core
)
EVENTS_PER_S = 25.0  # of a streaming run, after 40 ms of joining
TWO_PROCESSES = (
    1.1  # CPU a delivery across two processes, over that in one (tests/campaigns/test_fanout_cost.py)
)
NATS1_PER_S = 35_000.0  # appends, one server
NATS3_PER_S = 19_000.0  # appends, three servers on those same two cores
PRESENCE_S = 25.0  # each presence entry is renewed so often
POSTGRES_PER_S = 1_600.0  # writes
SQLITE_PER_S = 31_000.0  # appends of the embedded log; its store takes more
SOCKETS_PER_PROCESS = 20_000  # max_connections, the default


@dataclass(frozen=True)
class Profile:
    """What people do. Nothing of this is measured: look at your own metrics."""

    runs_per_hour: float = 2.0  # of a connected socket
    run_s: float = 15.0  # how long a run streams
    presence_share: float = 0.2  # of the sockets show a thread, and so are present in it
    writes_per_run: float = 8.0  # message, run, claim, start, end, compaction, title
    life_s: float = 3_300.0  # of a socket: rotated, or gone and back
    busy: float = (
        0.6  # of a core, or of an engine's throughput, that may be used: the rest is for the bad day
    )


@dataclass(frozen=True)
class Load:
    """What so many sockets do, each second."""

    sockets: int
    runs: float  # streaming now
    appends: float  # events and presence, at the broker
    writes: float  # at the store
    cores: float  # of gateways and agents' plumbing


def load_of(sockets: int, profile: Profile) -> Load:
    """The load of `sockets` people."""
    begun = sockets * profile.runs_per_hour / 3600
    runs = begun * profile.run_s
    appends = runs * EVENTS_PER_S + sockets * profile.presence_share / PRESENCE_S
    connects = sockets / profile.life_s * CONNECT_US
    cores = (sockets * IDLE_US_S + connects + runs * RUN_US_S * TWO_PROCESSES) / 1e6
    return Load(sockets, runs, appends, begun * profile.writes_per_run, cores)


@dataclass(frozen=True)
class Stage:
    """A way to set it up: how much of each resource it has. `cell`: more of them is the next step."""

    name: str
    processes: float
    appends: float
    writes: float


ONE = Stage("one process", 1, SQLITE_PER_S, SQLITE_PER_S)
MACHINE = Stage("one machine, `--workers 4`", 4, NATS1_PER_S, SQLITE_PER_S)
CELL = Stage("one cell: gateways, NATS × 3, PostgreSQL", 64, NATS3_PER_S, POSTGRES_PER_S)
STAGES = (ONE, MACHINE, CELL)


def shares(load: Load, stage: Stage, profile: Profile) -> dict[str, float]:
    """Of what the stage may use of each resource, how much the load takes; over 1 is too much."""
    return {
        "sockets of a process": load.sockets / (stage.processes * SOCKETS_PER_PROCESS),
        "CPU of the gateways": load.cores / (stage.processes * profile.busy),
        "appends at the broker": load.appends / (stage.appends * profile.busy),
        "writes at the store": load.writes / (stage.writes * profile.busy),
    }


def most(stage: Stage, profile: Profile) -> tuple[int, str]:
    """How many sockets a stage carries, and what breaks first: every resource grows in proportion to them."""
    of_one = shares(load_of(1_000_000, profile), stage, profile)
    first = max(of_one, key=lambda name: of_one[name])
    return int(1_000_000 / of_one[first]), first


def stage_for(sockets: int, profile: Profile) -> tuple[str, int]:
    """The smallest set-up that carries it, and of how many cells."""
    for stage in STAGES:
        if sockets <= most(stage, profile)[0]:
            return stage.name, 1
    cells = math.ceil(sockets / most(CELL, profile)[0])
    return f"{cells} cells", cells


def processes_of(load: Load, profile: Profile, cells: int) -> int:
    """Gateway processes, evenly over the cells, and one more a cell for the one that dies or is replaced."""
    needed = max(load.sockets / SOCKETS_PER_PROCESS, load.cores / profile.busy) / cells
    return cells * (math.ceil(needed) + (1 if load.sockets > SOCKETS_PER_PROCESS else 0))


def table(profile: Profile) -> str:
    """The two tables, as Markdown."""
    lines = ["| a set-up | carries, sockets | then breaks first |", "| --- | --- | --- |"]
    for stage in STAGES:
        sockets, first = most(stage, profile)
        lines.append(f"| {stage.name} | {_round(sockets)} | {first} |")
    lines += [
        "",
        "| sockets | set-up | runs streaming | appends/s | writes/s | gateways | cores | memory, GB | a gateway dies |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for power in range(3, 8):
        load = load_of(10**power, profile)
        name, cells = stage_for(load.sockets, profile)
        processes = processes_of(load, profile, cells)
        memory_gb = (load.sockets * SOCKET_KB / 1e6) + processes * PROCESS_MB / 1e3
        lost_s = load.sockets / processes * RECONNECT_US / 1e6
        lines.append(
            f"| {load.sockets:,} | {name} | {load.runs:,.0f} | {load.appends:,.0f} | {load.writes:,.0f} "
            f"| {processes:,} | {load.cores:,.2f} | {memory_gb:,.2f} | {lost_s:.1f} s |"
        )
    return "\n".join(lines)


def _round(sockets: int) -> str:
    """Two digits: the figures behind it are no better."""
    step = 10 ** (len(str(sockets)) - 2)
    return f"{sockets // step * step:,}"


def page_with(text: str, made: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="What a number of sockets needs.")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scaling.md")
    for field in fields(Profile):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=float, default=field.default, dest=field.name)
    given = vars(parser.parse_args())
    write = given.pop("write")
    made = table(Profile(**given))
    print(made)
    if write:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
