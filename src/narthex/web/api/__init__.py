"""The server API under /api/v1, for back ends and operators. /api/v1/openapi.json describes it."""

from narthex.web.api.routes import ServerApi

__all__ = ["ServerApi"]
