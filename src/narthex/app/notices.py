"""Notices to a user's own channel, so that every device of a user follows along.

Not here: the reasons for notices (the callers have them). A notice is a `CUSTOM` AG-UI event
`{"type": "CUSTOM", "name": "narthex.…", "value": {…}}`, durable and recoverable like everything else in a channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from narthex.domain.channels import channel_key, user_channel
from narthex.domain.events import custom
from narthex.ports.broker import ChannelLog
from narthex.protocol.replies import encode_json


class Notices:
    """Publishes notices."""

    def __init__(self, broker: ChannelLog) -> None:
        self._broker = broker

    async def send(
        self, tenant: str, user_ids: Iterable[str], name: str, value: Mapping[str, object], *, key: str = ""
    ) -> None:
        """Publish one notice to each user. `key` makes a repeat harmless.

        Raises:
            DependencyError: some users may not have got it; repeat with the same `key`.
        """
        data = encode_json(custom(name, dict(value)))
        # Wait for each result: a publish that continues after the error would have no owner.
        told = await asyncio.gather(
            *(
                self._broker.publish(channel_key(tenant, user_channel(user_id)), data, key=key or None)
                for user_id in user_ids
            ),
            return_exceptions=True,
        )
        for outcome in told:
            if isinstance(outcome, BaseException):
                raise outcome
