"""The broker on Redis or Valkey, for many nodes on one server with an append-only file. See `broker.RedisBroker`."""

from narthex.adapters.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
