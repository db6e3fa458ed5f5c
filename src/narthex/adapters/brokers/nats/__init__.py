"""The broker on NATS JetStream, for many nodes and many machines. See `broker.NatsBroker`."""

from narthex.adapters.brokers.nats.broker import NatsBroker

__all__ = ["NatsBroker"]
