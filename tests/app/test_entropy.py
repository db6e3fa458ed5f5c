"""Random bytes in blocks: fresh each time, and UUIDs of the right form."""

from __future__ import annotations

import uuid

from narthex.app.entropy import BLOCK, Entropy


def test_no_bytes_are_given_out_twice() -> None:
    """Across many blocks."""
    pool = Entropy()
    taken = [pool.take(16) for _ in range(BLOCK // 4)]
    assert len(set(taken)) == len(taken)
    assert len(pool.take(BLOCK)) == BLOCK


def test_uuids_are_of_version_four() -> None:
    """As the standard library reads them, and all different."""
    pool = Entropy()
    found = [uuid.UUID(pool.uuid4()) for _ in range(2_000)]
    assert all(one.version == 4 and one.variant == uuid.RFC_4122 for one in found)
    assert len(set(found)) == 2_000
    assert len({str(one)[19:21] for one in found}) == 4 * 16, "the variant's bits are random by themselves"
