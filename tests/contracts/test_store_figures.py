"""The history of figures on every engine: replace, order, bounds, deletion."""

from __future__ import annotations

from narthex.ports.history import HistoryRow
from narthex.ports.store import KEPT_BASELINES, BaselineRecord, Store


def row(resolution: int, at: int, node: str = "", data: str = "{}") -> HistoryRow:
    """A row."""
    return HistoryRow(resolution=resolution, at=at, node=node, data=data)


async def test_rows_come_in_order_and_a_repeat_replaces(store: Store) -> None:
    """By moment, then by node; one resolution is not another."""
    await store.history.put_history([row(10, 30, "b"), row(10, 20, "a"), row(60, 0)])
    await store.history.put_history([row(10, 30, "a"), row(10, 30, "b", '{"new": 1}')])
    found = await store.history.history(10, 20, 40, 10)
    assert [(one.at, one.node, one.data) for one in found] == [
        (20, "a", "{}"),
        (30, "a", "{}"),
        (30, "b", '{"new": 1}'),
    ]
    assert [one.at for one in await store.history.history(10, 20, 30, 10)] == [20]
    assert len(await store.history.history(10, 0, 100, 1)) == 1


async def test_newest_and_prune(store: Store) -> None:
    """Each concerns one resolution only."""
    assert await store.history.newest_history(60) == 0
    await store.history.put_history([row(60, 60), row(60, 120), row(10, 10)])
    assert await store.history.newest_history(60) == 120
    assert await store.history.prune_history(60, 120) == 1
    assert [one.at for one in await store.history.history(60, 0, 1_000, 10)] == [120]
    assert len(await store.history.history(10, 0, 1_000, 10)) == 1


async def test_baselines_come_newest_first_and_are_bounded(store: Store) -> None:
    """A measurement a day for more than a year."""
    for number in range(KEPT_BASELINES + 3):
        await store.records.add_baseline(
            BaselineRecord(at=float(number), kind="bench", version="1", machine="m", figures='{"a": 1.5}')
        )
    found = await store.records.baselines(10_000)
    assert len(found) == KEPT_BASELINES
    assert [one.at for one in found[:2]] == [KEPT_BASELINES + 2.0, KEPT_BASELINES + 1.0]
    assert found[0].figures == '{"a": 1.5}'
