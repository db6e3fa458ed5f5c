"""The client that published: kept in the log beside a publication, and shown to subscribers as Centrifuge's `info`.

Not here: who may publish (`commands.channels`). Only publications of the command `publish` have it, as in the
reference: those of the server API and of runs have no publishing client. It is a tag with a name of its own, because
every broker keeps tags, and the server API sets none.
"""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.domain.identity import Identity
from narthex.protocol.replies import ClientInfo, encode_json

INFO_TAG: Final = "narthex.info"

_decode: Final = msgspec.json.Decoder(ClientInfo).decode


def client_info(client: str, identity: Identity) -> ClientInfo:
    """A connection as other clients see it."""
    return ClientInfo(
        user=identity.subject, client=client, conn_info={"name": identity.name} if identity.name else None
    )


def with_info(info: ClientInfo) -> dict[str, str]:
    """The tags of a publication by this client."""
    return {INFO_TAG: encode_json(info).decode()}


def without_info(tags: dict[str, str] | None) -> tuple[dict[str, str] | None, ClientInfo | None]:
    """A publication's tags for clients, and its publisher."""
    if tags is None or INFO_TAG not in tags:
        return tags, None
    shown = {name: value for name, value in tags.items() if name != INFO_TAG}
    return shown or None, _decode(tags[INFO_TAG])
