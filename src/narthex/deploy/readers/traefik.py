"""Traefik: entry points of the static file, services of the dynamic one.

Traefik passes upgrades by itself. `respondingTimeouts.readTimeout` (60 s by default) covers reading a request and ends
with the upgrade; `forwardingTimeouts` end before it too. So what is left is HTTP/2 to the server and sticky cookies.
"""

from __future__ import annotations

from narthex.deploy.documents import read_yaml
from narthex.deploy.facts import Fact, Hop, Manifest


def read(text: str, file: str) -> Manifest:
    """Every service of the dynamic configuration."""
    found = Manifest()
    for document in read_yaml(text, file):
        for name, service in document.at("http/services").members.items():
            balancer = service["loadBalancer"]
            hop = Hop(platform="traefik", name=name, place=service.place)
            hop.upgrade = Fact(True, service.place, written=False)
            hop.repeats += service.all_repeats()
            for server in balancer["servers"].items:
                if server["url"].text.startswith("h2c://"):
                    hop.http2 = Fact(True, server["url"].place)
            if balancer["sticky"]:
                hop.affinity = Fact(True, balancer["sticky"].place)
            found.hops.append(hop)
    return found
