"""AG-UI over HTTP and server-sent events: `/agui` and `/agui/{agent}`, for stock AG-UI clients."""

from narthex.web.agui.routes import AguiRoutes

__all__ = ["AguiRoutes"]
