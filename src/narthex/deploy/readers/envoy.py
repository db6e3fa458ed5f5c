"""Envoy: routes of an HTTP connection manager, and the clusters behind them.

Rule: a value that a route leaves out is Envoy's default: 15 s for a response, which does not count after an upgrade,
and 5 min without a byte (`stream_idle_timeout`), which does.
"""

from __future__ import annotations

from collections.abc import Iterator

from narthex.deploy import quantities
from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Hop, Manifest

IDLE_S = 300.0


def read(text: str, file: str) -> Manifest:
    """Every route to a cluster."""
    found = Manifest()
    for document in read_yaml(text, file):
        over_h2 = {
            cluster["name"].text: cluster
            for cluster in _all(document, "clusters")
            if any(_keys(cluster, "http2_protocol_options"))
        }
        affine = {
            cluster["name"].text: cluster["lb_policy"]
            for cluster in _all(document, "clusters")
            if cluster["lb_policy"].text in ("RING_HASH", "MAGLEV")
        }
        for manager in _managers(document):
            upgrades = {entry["upgrade_type"].text.lower() for entry in manager["upgrade_configs"].items}
            for route in _all(manager, "routes"):
                if not route["route"]["cluster"]:
                    continue
                action = route["route"]
                hop = Hop(platform="envoy", name=action["cluster"].text, place=action.place)
                own = {entry["upgrade_type"].text.lower() for entry in action["upgrade_configs"].items}
                hop.upgrade = Fact("websocket" in upgrades | own, action.place)
                idle = action["idle_timeout"] or manager["stream_idle_timeout"]
                seconds = quantities.seconds(idle.text) if idle else IDLE_S
                if seconds:  # 0 switches it off
                    hop.idle_s = Fact(seconds, idle.place if idle else action.place, written=bool(idle))
                life = action["max_stream_duration"]["max_stream_duration"] or manager.at(
                    "common_http_protocol_options/max_stream_duration"
                )
                if life and (longest := quantities.seconds(life.text)):
                    hop.life_s = Fact(longest, life.place)
                if (cluster := over_h2.get(hop.name)) is not None:
                    hop.http2 = Fact(True, next(_keys(cluster, "http2_protocol_options")).place)
                if (policy := affine.get(hop.name)) is not None:
                    hop.affinity = Fact(True, policy.place)
                found.hops.append(hop)
        if found.hops:
            found.hops[0].repeats += document.all_repeats()
    return found


def _managers(document: Tree) -> Iterator[Tree]:
    for config in _keys(document, "typed_config"):
        if config["@type"].text.endswith("HttpConnectionManager"):
            yield config


def _all(tree: Tree, key: str) -> Iterator[Tree]:
    for found in _keys(tree, key):
        yield from found.items


def _keys(tree: Tree, key: str) -> Iterator[Tree]:
    for name, child in tree.members.items():
        if name == key:
            yield child
        yield from _keys(child, key)
    for child in tree.value if isinstance(tree.value, list) else []:
        yield from _keys(child, key)
