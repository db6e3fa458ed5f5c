"""The embedded broker: one SQLite file, one owning process, group commit. See `broker.SqliteBroker`."""

from narthex.adapters.brokers.sqlite.broker import SqliteBroker
from narthex.adapters.brokers.sqlite.schema import ChannelRetention

__all__ = ["ChannelRetention", "SqliteBroker"]
