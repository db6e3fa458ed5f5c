"""Prometheus on Kubernetes: it asks a pod by its address, with a token; the autoscaler reads connections from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.acceptance.program import running
from tests.deploy.programs import checked, program
from tests.docs.blocks import ROOT, blocks_of

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


def adapters_rule() -> dict[str, Any]:
    """The rule of prometheus-adapter that docs/deploy.md shows."""
    (block,) = [block for block in blocks_of(ROOT / "docs" / "deploy.md") if "seriesQuery" in block.text]
    (rule,) = yaml.safe_load(block.text)["rules"]
    return dict(rule)


def test_the_adapter_gives_each_pod_its_connections(tmp_path: Path) -> None:
    """Its query, filled in as the adapter does for a pod metric: one figure a pod, of all classes together."""
    (metric,) = [
        one["pods"]["metric"]["name"]
        for one in yaml.safe_load((ROOT / "deploy/kubernetes/autoscaler.yaml").read_text())["spec"]["metrics"]
    ]
    rule = adapters_rule()
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    query = rule["metricsQuery"]
    for mark, value in (
        ("<<.Series>>", metric),
        ("<<.LabelMatchers>>", 'namespace="chat",pod=~"chat-1|chat-2"'),
        ("<<.GroupBy>>", "pod"),
    ):
        query = query.replace(mark, value)
    series = {
        ("chat", "chat-1", "user"): 5,
        ("chat", "chat-1", "e2e"): 2,
        ("chat", "chat-2", "user"): 3,
        ("other", "chat-1", "user"): 9,
    }
    tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": f'{metric}{{namespace="{namespace}",pod="{pod}",class="{kind}"}}',
                        "values": f"{value} {value}",
                    }
                    for (namespace, pod, kind), value in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "1m",
                        "exp_samples": [
                            {"labels": '{pod="chat-1"}', "value": 7},
                            {"labels": '{pod="chat-2"}', "value": 3},
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "adapter.yml"
    file.write_text(yaml.safe_dump(tests))
    checked(program("promtool", "apt-get install prometheus"), "test", "rules", file)


async def test_a_gateway_has_the_series_that_the_adapter_looks_for(tmp_path: Path) -> None:
    """Renaming the metric, or dropping it, leaves the autoscaler blind."""
    name = adapters_rule()["seriesQuery"].partition("{")[0]
    async with running(tmp_path) as gateway:
        assert f"\n{name}{{" in (await gateway.get("/metrics")).text
