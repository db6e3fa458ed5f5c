"""The server API under /api/v1: what back ends and operators call. Described by /api/v1/openapi.json."""

from narthex.web.api.routes import ServerApi

__all__ = ["ServerApi"]
