"""Fan-out: channels, their subscribers, prepared batches, lagging clients."""

from narthex.app.hub.channel import Channel, Subscriber
from narthex.app.hub.hub import Hub, HubLimits

__all__ = ["Channel", "Hub", "HubLimits", "Subscriber"]
