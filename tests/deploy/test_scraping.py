"""Prometheus on Kubernetes asks a pod by its address: `/metrics` answers under any host where a token protects it."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.acceptance.program import running

pytestmark = pytest.mark.acceptance
POD = {"Host": "10.1.2.3:8080"}


async def test_metrics_by_address_need_the_token(tmp_path: Path) -> None:
    """With the token 200, without it 401; other routes keep to the listed hosts."""
    env = {"NARTHEX_METRICS_TOKEN": "a-scraper-0123456789", "NARTHEX_ALLOWED_HOSTS": "chat.example.com"}
    async with running(tmp_path, env=env) as gateway, httpx2.AsyncClient(trust_env=False) as client:

        async def status(path: str, **headers: str) -> int:
            return (await client.get(gateway.http + path, headers=POD | headers)).status_code

        assert await status("/metrics", Authorization="Bearer a-scraper-0123456789") == 200
        assert await status("/metrics") == 401
        assert await status("/ws/beacon") == 400


async def test_metrics_without_a_token_keep_to_the_listed_hosts(tmp_path: Path) -> None:
    """Else a page of another site could read them by a name that resolves to the gateway."""
    env = {"NARTHEX_ALLOWED_HOSTS": "chat.example.com"}
    async with running(tmp_path, env=env) as gateway, httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{gateway.http}/metrics", headers=POD)).status_code == 400
