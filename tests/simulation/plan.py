"""The plan of a history: steps of users and faults, drawn from a seed, as plain values that can be reduced.

Not here: executing them (`world`). Rules: a plan is a pure function of its seed; it can be written as JSON and read
again; leaving out steps gives a plan as well, which is how a failing one is shrunk. Each seed draws which kinds of
steps it uses at all ("swarm"), because a permanent fault would hide the effects of the others.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

NODES: Final = 3
READERS: Final = ("alice-0", "alice-1", "bob-0", "carol-0")
"""Devices: a user, and a number. alice owns both threads."""
THREADS: Final = ("t0", "t1")
BUSY_S: Final = 22.0
"""Virtual seconds in which users and faults are active."""
SETTLE_S: Final = 36.0
"""Virtual seconds without faults after that, in which everything must recover."""


class Step(msgspec.Struct, frozen=True):
    """One step.

    Attributes:
        at: virtual seconds.
        what: a method of `world.World`.
        who: a node's number, or a reader's name; empty for engines.
        value: a duration, a number or an index, depending on the method.
        text: further arguments.
    """

    at: float
    what: str
    who: str = ""
    value: float = 0.0
    text: str = ""


class Plan(msgspec.Struct, frozen=True):
    """See the module.

    Attributes:
        seed: the seed of the plan, and of the delays.
        slow: the share of slow calls, and their longest duration.
        ahead_s: the error of each node's clock from the start.
        clumsy: the share of publications that are delivered twice.
    """

    seed: int
    steps: list[Step]
    slow: tuple[float, float] = (0.0, 0.0)
    ahead_s: tuple[float, ...] = (0.0, 0.0, 0.0)
    clumsy: float = 0.0


PEOPLE: Final[dict[str, float]] = {
    "publish": 5.0,
    "say": 3.0,
    "cancel": 0.8,
    "change_mind": 0.6,
    "look": 0.6,
    "cut": 1.0,
    "vanish": 0.3,
    "stall": 0.5,
    "mount": 0.8,
    "remove": 0.5,
    "add": 0.5,
    "revoke": 0.12,
}
FAULTS: Final[dict[str, float]] = {
    "kill": 0.6,
    "drain": 0.4,
    "pause": 0.4,
    "deaf": 0.7,
    "cut_log": 0.6,
    "cut_store": 0.5,
    "cut_owner": 0.4,
    "hang_log": 0.4,
    "hang_store": 0.4,
    "lose_tail": 0.5,
    "purge": 0.2,
    "recreate": 0.2,
    "lose_at_end": 0.3,
    "restore": 0.2,
    "restore_store": 0.3,
    "trim": 0.3,
    "step_clock": 0.5,
}


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    weights = {name: weight for name, weight in PEOPLE.items() if rng.random() < 0.7}
    weights.setdefault("publish", 3.0)
    weights.setdefault("say", 2.0)
    faulty = rng.random() < 0.9
    faults = {name: weight for name, weight in FAULTS.items() if faulty and rng.random() < 0.35}
    steps = [_person(rng, weights) for _ in range(rng.randint(12, 40))]
    if faults:
        for _ in range(rng.randint(1, 6)):
            steps += _cluster(rng, weights, faults)
    skewed = rng.random() < 0.4
    ahead = tuple(
        rng.choice((0.0, 0.3, -0.3, 2.0, 20.0, -60.0, 60.0)) if skewed else 0.0 for _ in range(NODES)
    )
    slow = (rng.choice((0.0, 0.02, 0.1)), rng.choice((0.05, 0.5, 2.0)))
    clumsy = rng.choice((0.0, 0.0, 0.05, 0.3))
    if rng.random() < 0.08:  # drawn last, so that the other steps of a seed stay what they were
        steps += _freezing(rng)
    steps.sort(key=lambda step: step.at)
    return Plan(seed=seed, steps=steps, slow=slow, ahead_s=ahead, clumsy=clumsy)


def _freezing(rng: random.Random) -> list[Step]:
    """A run of an agent that may run again, whose owner is frozen while the log is replaced, another node begins it in
    the next log, and the store goes back.
    """
    at = round(rng.uniform(6.0, BUSY_S - 12.0), 3)
    said = f"{rng.choice(THREADS)} patient"
    lasts = round(rng.uniform(9.0, 12.0), 3)
    return [
        Step(round(at - rng.uniform(2.5, 5.0), 3), "say", rng.choice(READERS), 0.0, said),
        Step(at, "freeze_owner", "", lasts, rng.choice(("purge", "recreate"))),
    ]


def _cluster(rng: random.Random, weights: dict[str, float], faults: dict[str, float]) -> list[Step]:
    """A fault, often together with another one and with user actions, because coincidences break guarantees."""
    first = _fault(rng, faults)
    steps = [first]
    if first.what == "cut_owner":  # of a run that takes longer than its lease lasts
        said = Step(
            max(0.5, round(first.at - 1.0, 3)),
            "say",
            rng.choice(READERS),
            0.0,
            f"{rng.choice(THREADS)} steady",
        )
        steps.insert(0, said)
    if rng.random() < 0.3:
        steps.append(_fault(rng, faults))
    steps += [_person(rng, weights) for _ in range(rng.choice((0, 0, 1, 2)))]
    kept = steps.index(first) + 1
    near = [min(BUSY_S, max(0.5, first.at + rng.uniform(-1.5, 1.5))) for _ in steps[kept:]]
    moved = zip(steps[kept:], near, strict=True)
    return [*steps[:kept], *(msgspec.structs.replace(step, at=round(at, 3)) for step, at in moved)]


def _pick(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _person(rng: random.Random, weights: dict[str, float]) -> Step:
    at, what = round(rng.uniform(0.5, BUSY_S), 3), _pick(rng, weights)
    thread = rng.choice(THREADS)
    if what == "publish":
        return Step(at, what, "", float(rng.randint(1, 8)), thread)
    if what == "say":
        agent = rng.choice(("echo", "echo", "long", "again", "fails", "asks"))
        return Step(at, what, rng.choice(READERS), 0.0, f"{thread} {agent}")
    if what == "change_mind":
        return Step(at, what, rng.choice(READERS), round(rng.uniform(0.05, 2.0), 3), thread)
    if what in ("remove", "add"):
        return Step(at, what, rng.choice(("bob", "carol")), 0.0, thread)
    if what == "revoke":
        return Step(at, what, rng.choice(("bob", "carol")))
    if what == "stall":
        return Step(at, what, rng.choice(READERS), round(rng.uniform(0.5, 5.0), 3))
    return Step(at, what, rng.choice(READERS), rng.random(), thread)


def _fault(rng: random.Random, faults: dict[str, float]) -> Step:
    at, what = round(rng.uniform(0.5, BUSY_S), 3), _pick(rng, faults)
    node = str(rng.randrange(NODES))
    lasts = round(rng.choice((0.5, 1.5, 4.0, 9.0, 13.0)) * rng.uniform(0.7, 1.3), 3)
    match what:
        case "lose_tail":
            return Step(at, what, "", float(rng.choice((1, 1, 2, 5, 30))))
        case "hang_log" | "hang_store" | "restore" | "restore_store":
            return Step(at, what, "", lasts)
        case "cut_owner":
            return Step(min(at, BUSY_S - 2.0), what, "", round(rng.uniform(8.5, 13.0), 3))
        case "lose_at_end":
            return Step(at, what, "", 0.0, rng.choice(("lose_tail", "purge", "recreate")))
        case "purge" | "recreate":
            return Step(at, what)
        case "trim":
            # Not below the needs of a run in progress: engines keep thousands.
            return Step(at, what, "", float(rng.randint(60, 90)), rng.choice(THREADS))
        case "step_clock":
            return Step(
                at, what, node, rng.choice((-86_400.0, -3_600.0, -6.0, -1.0, 1.0, 6.0, 120.0, 86_400.0))
            )
        case "cut_log" | "cut_store":
            return Step(at, what, node, lasts, rng.choice(("both", "answers")))
        case _:
            return Step(at, what, node, lasts)
