"""Creates and inspects the broker's streams, and keeps the epoch of the log's stream.

Not here: the decision when to check the stream (`stream_monitor`). Rules: the log stream's metadata holds the epoch and
two proofs that the stream is still the one of that epoch: its creation time (a restored stream, or one created again
from its configuration, has a later one) and the sequence of an anchor, its first message, which narthex never drops (a
purge, or a limit that an operator set, drops it first). The epoch changes when a proof fails, when the stream ends
before a message that a node has seen in it, and, where the servers are on this machine, after each boot, because no
process is left that could notice a loss. A stream of a newer layout is refused, and one whose configuration can drop
acknowledged publications.
"""

from __future__ import annotations

import secrets
from typing import Any, Final, NamedTuple

from nats.aio.client import Client

from narthex.adapters.brokers.nats.jetstream import NO_REPLICAS, JetStream, RequestRejected, StreamMissing
from narthex.errors import ConfigError, DependencyError
from narthex.ports.broker import KEPT_PUBLICATIONS, PRESENCE_TTL_S

LAYOUT: Final = 1
KEPT_MESSAGES: Final = KEPT_PUBLICATIONS  # per channel; a message holds at least one publication
_EPOCH: Final = "narthex-epoch"
_BOOT: Final = "narthex-boot"
_LAYOUT: Final = "narthex-layout"
_CREATED: Final = "narthex-created"
_ANCHOR: Final = "narthex-anchor"
_NAME_IN_USE: Final = 10058


class StreamNames:
    """Names and subjects under one prefix, so that several deployments can share a NATS system."""

    def __init__(self, prefix: str) -> None:
        self.log_stream = f"{prefix}-log"
        self.presence_stream = f"{prefix}-presence"
        self.log = f"{prefix}.log."  # stored
        self.live = f"{prefix}.live."  # the same, sent once it is stored; and notices
        self.presence = f"{prefix}.presence."
        self.control_all = f"{prefix}.control.all"
        self.control_node = f"{prefix}.control.node."
        self.epoch = f"{prefix}.epoch"  # "read the metadata again"


def default_replicas(client: Client) -> int:
    """3 in a cluster, else 1, by the server's own information."""
    return 3 if _info(client).get("cluster") else 1


def server_name(client: Client) -> str:
    """The name of the server that the client is connected to."""
    return str(_info(client).get("server_name", ""))


def _info(client: Client) -> dict[str, Any]:
    info: dict[str, Any] = client._server_info  # noqa: SLF001 - nats-py has no public name for INFO
    return info


class StreamInfo(NamedTuple):
    """The leader's information about the stream.

    Attributes:
        first: sequence of the first kept message.
        last: sequence of the last message that there ever was.
        subjects: the number of channels with a message; 0: unknown.
        created: the creation time, as the server's text.
    """

    first: int
    last: int
    subjects: int
    created: str


class LogStream:
    """The log's stream and its base epoch.

    Attributes:
        replaced: its creation time is not that of the stream of this epoch.
        anchor: sequence of its first message; 0: it has none yet.
        problems: settings in its configuration that can drop acknowledged publications, in words.
    """

    def __init__(self, stream: JetStream, names: StreamNames, kept_messages: int, boot: str) -> None:
        self._stream = stream
        self._names = names
        self._kept_messages = kept_messages
        self._boot = boot  # boot id of the servers' machine, empty when it is not this machine
        self.base_epoch = ""
        self.rebooted = False  # as `ensure` found it
        self.made = False  # by the last `ensure`: nodes that knew another one must be notified
        self.replicas = 1
        self.replaced = False
        self.anchor = 0
        self.problems: list[str] = []

    def epoch(self, incarnation: str) -> str:
        """A channel's epoch: the base, and the suffix that it got when it was removed."""
        return f"{self.base_epoch}.{incarnation}" if incarnation else self.base_epoch

    async def ensure(self, replicas: int, connected_to: str) -> StreamInfo:
        """Create the stream or read the existing one.

        `connected_to` is the server that answered: one on loopback may only relay to another machine.

        Raises:
            ConfigError: a newer layout.
            DependencyError: not enough servers for `replicas`, or NATS refuses the stream.
        """
        name = self._names.log_stream
        self.made = False
        try:
            answer = await self._stream.api(f"STREAM.INFO.{name}")
        except StreamMissing:
            self.made = True
            answer = await create(self._stream, self._config(replicas))
        info, config = self._read(answer, connected_to), answer["config"]
        if 0 < int(config.get("max_msgs_per_subject", 0)) < self._kept_messages:  # an older narthex made it
            config["max_msgs_per_subject"] = self._kept_messages
            info = self._read(await self._stream.api(f"STREAM.UPDATE.{name}", config), connected_to)
        return info

    async def inspect(self, connected_to: str) -> StreamInfo:
        """Read the existing stream. Raises jetstream's errors, StreamMissing among them."""
        return self._read(await self._stream.api(f"STREAM.INFO.{self._names.log_stream}"), connected_to)

    def _read(self, answer: dict[str, Any], connected_to: str) -> StreamInfo:
        name, config = self._names.log_stream, answer["config"]
        layout = int(config.get("metadata", {}).get(_LAYOUT, 0))
        if layout > LAYOUT:
            raise ConfigError(
                [
                    f"Stream {name} has layout {layout}; this narthex supports up to {LAYOUT}. Start the newer narthex."
                ]
            )
        if layout < 1:
            raise ConfigError(
                [f"Stream {name} belongs to another program: set another ?prefix= in NARTHEX_BROKER_URL."]
            )
        self.base_epoch = config["metadata"][_EPOCH]
        self.replicas = int(config.get("num_replicas", 1))
        here = answer.get("cluster", {}).get("leader", "") == connected_to
        self.rebooted = here and self._boot != "" and config["metadata"].get(_BOOT, "") != self._boot
        created, noted = str(answer.get("created", "")), config["metadata"].get(_CREATED, "")
        self.replaced = noted not in ("", created)
        self.anchor = int(config["metadata"].get(_ANCHOR, 0))
        self.problems = _lossy(config, self._config(self.replicas))
        state = answer["state"]
        return StreamInfo(
            int(state["first_seq"]), int(state["last_seq"]), int(state.get("num_subjects", 0)), created
        )

    async def change_epoch(self, anchor: int) -> None:
        """Record that acknowledged publications may be missing, unless another node has. `anchor`: see the class."""
        answer = await self._stream.api(f"STREAM.INFO.{self._names.log_stream}")
        metadata = answer["config"]["metadata"]
        if metadata[_EPOCH] != self.base_epoch:
            self.base_epoch, self.anchor = metadata[_EPOCH], int(metadata.get(_ANCHOR, 0))
            self.replaced = self.rebooted = False
            return
        await self._note({_EPOCH: new_epoch(), _BOOT: self._boot}, anchor)

    async def set_anchor(self, anchor: int) -> None:
        """Record the stream's first message; no data was lost."""
        await self._note({}, anchor)

    async def _note(self, changes: dict[str, str], anchor: int) -> None:
        answer = await self._stream.api(f"STREAM.INFO.{self._names.log_stream}")
        config = answer["config"]
        proof = {_CREATED: str(answer.get("created", "")), _ANCHOR: str(anchor)}
        config["metadata"] = {**config["metadata"], **proof, **changes}
        answer = await self._stream.api(f"STREAM.UPDATE.{self._names.log_stream}", config)
        self.base_epoch = answer["config"]["metadata"][_EPOCH]
        self.anchor, self.replaced = anchor, False

    def _config(self, replicas: int) -> dict[str, Any]:
        return {
            "name": self._names.log_stream,
            "description": "narthex: channel logs",
            "subjects": [self._names.log + "*"],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": self._kept_messages,
            "discard": "old",
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "republish": {"src": self._names.log + "*", "dest": self._names.live + "{{wildcard(1)}}"},
            "metadata": {_EPOCH: new_epoch(), _LAYOUT: str(LAYOUT), _BOOT: self._boot},
        }


def _lossy(config: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Settings in a stream's configuration that can drop acknowledged publications, or keep them from subscribers."""
    limits = ("max_age", "max_bytes", "max_msgs")
    found = [f"{name} is {config[name]}" for name in limits if int(config.get(name) or 0) > 0]
    told = config.get("republish") or {}
    config = config | {"republish": {name: told.get(name) for name in ours["republish"]}}
    kept = ("retention", "storage", "republish", "allow_direct", "allow_rollup_hdrs")
    wrong = [name for name in kept if config.get(name) != ours[name]]
    found += [f"{name} is {config.get(name)!r} and must be {ours[name]!r}" for name in wrong]
    if not set(ours["subjects"]) <= set(config.get("subjects") or ()):
        found.append(f"subjects lack {ours['subjects'][0]!r}")
    found += [f"{name} is set" for name in ("no_ack", "sealed") if config.get(name)]
    return found


async def ensure_presence(stream: JetStream, names: StreamNames, replicas: int) -> None:
    """Create the stream of presence entries, in memory, which drops each entry by age."""
    try:
        await stream.api(f"STREAM.INFO.{names.presence_stream}")
    except StreamMissing:
        await create(
            stream,
            {
                "name": names.presence_stream,
                "description": "narthex: who is in which channel",
                "subjects": [names.presence + "*.*"],
                "retention": "limits",
                "storage": "memory",
                "num_replicas": replicas,
                "max_msgs_per_subject": 1,
                "max_age": PRESENCE_TTL_S * 1_000_000_000,
                "discard": "old",
                "allow_direct": True,
            },
        )


async def create(stream: JetStream, config: dict[str, Any]) -> dict[str, Any]:
    """Create a stream; if another node was faster, return its stream. Raises DependencyError when NATS refuses it."""
    try:
        return await stream.api(f"STREAM.CREATE.{config['name']}", config)
    except RequestRejected as refused:
        if refused.code == _NAME_IN_USE:
            return await stream.api(f"STREAM.INFO.{config['name']}")
        if refused.code in NO_REPLICAS:
            raise DependencyError(  # transient: the other servers may be starting
                "broker",
                f"NATS has too few servers for {config['num_replicas']} replicas.",
                "Start the other servers, or set ?replicas=1 in NARTHEX_BROKER_URL.",
            ) from refused
        raise DependencyError(
            "broker", f"JetStream refused a stream: {refused}.", "Check the NATS server's log."
        ) from refused


def new_epoch() -> str:
    """48 random bits, without the `.` that joins base and incarnation."""
    return secrets.token_urlsafe(6)


def durability(replicas: int) -> str:
    """The failures that an acknowledged publication survives with this number of replicas."""
    if replicas > 1:
        return (
            f"An acknowledged publication is on a majority of {replicas} servers: it survives the loss of any one "
            f"process or machine; it survives the loss of all of them only with sync_interval: always on the servers."
        )
    return (
        "An acknowledged publication survives the death of the NATS server's process, and that of its machine only "
        "with sync_interval: always; else the last two minutes may be missing, and then the epoch changes."
    )
