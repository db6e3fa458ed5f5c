"""The output of a starting gateway: it must not recommend a token that the gateway refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

import narthex
from narthex.settings import load
from narthex.wiring.announcement import announce
from narthex.wiring.gateway import GatewayServer
from tests.wiring.test_embedding import Sessions


@pytest.mark.parametrize(
    ("verifier", "expected"),
    [(None, "narthex token --data-dir "), (Sessions(), "verified by your program's own verifier")],
    ids=["embedded provider", "own verifier"],
)
async def test_the_announced_tokens_are_those_that_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verifier: Sessions | None, expected: str
) -> None:
    """`narthex token` is named where its tokens are admitted, and not with an embedding program's verifier."""
    settings = load({"data_dir": tmp_path, "port": 0}, {})
    gateway: GatewayServer = narthex.create_gateway(settings, verifier=verifier)
    async with gateway.running() as url:
        assert gateway.parts is not None
        announce(settings, [url], gateway.parts)
    told = capsys.readouterr().out
    assert expected in told
    assert ("narthex token" in told) == (verifier is None)
