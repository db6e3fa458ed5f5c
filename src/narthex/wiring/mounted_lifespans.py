"""Runs the lifespan of applications that an embedding program mounts into the gateway (ASGI's lifespan protocol).

Not here: the program's routes themselves (`web_application`). Rules: an application is started before the rest of the
gateway and stopped after it, because agents may use what it opens; it gets no request before its start-up is complete;
one that fails to start ends the process with its own exception; one without a lifespan is served as it is; the state
that a lifespan yields reaches the requests of its own application only.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

from starlette.routing import BaseRoute, Host, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from narthex.adapters.telemetry.logging import get_logger
from narthex.app.lifecycle import Component
from narthex.domain.refusals import Refusal
from narthex.errors import ConfigError
from narthex.web.problems import problem

log = get_logger("narthex.gateway")

_STARTING = Refusal(code="starting", retry_after_s=1)


class MountedLifespan:
    """One mounted application with its lifespan; an ASGI application itself.

    Args:
        app: the program's.
        path: where it is mounted.

    Attributes:
        path: as given.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.app = app
        self.path = path
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Before the start-up is complete requests are refused `starting`."""
        if not self._started:
            await problem(_STARTING)(scope, receive, send)
            # uvicorn logs an error for a WebSocket's call that returns before it has noticed the end of its connection.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return None
        if self._state:
            scope["state"] = {**scope.get("state", {}), **self._state}
        return await self.app(scope, receive, send)

    async def start(self) -> None:
        """Run the start-up. Raises the application's own exception, or ConfigError where it gave none."""
        self._events, self._answers, self._state = asyncio.Queue(), asyncio.Queue(), {}
        self._task = asyncio.create_task(self._run(), name=f"narthex lifespan {self.path}")
        answer = await self._answered("startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            await self._task  # raises what the application raised
            raise ConfigError(
                [f"The application mounted at {self.path or '/'} did not start: {answer.get('message')}"]
            )
        self._started = True

    async def stop(self) -> None:
        """Run the shutdown, or end a start-up that is under way. Its failure is logged."""
        task = self._task
        if task is None:
            return
        if self._started and not task.done():
            answer = await self._answered("shutdown")
            if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                log.error("mounted application", path=self.path, detail=answer.get("message", ""))
        else:
            task.cancel()
        self._task, self._started = None, False
        await asyncio.gather(task, return_exceptions=True)

    async def _answered(self, event: str) -> Message | None:
        """Send an event; the application's answer, or None: it has no lifespan, or its lifespan has ended."""
        assert self._task is not None
        self._events.put_nowait({"type": f"lifespan.{event}"})
        answering = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait((answering, self._task), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            return None if self._answers.empty() else self._answers.get_nowait()
        finally:
            answering.cancel()

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        answered = False

        async def send(message: Message) -> None:
            nonlocal answered
            answered = True
            self._answers.put_nowait(message)

        try:
            await self.app(scope, self._events.get, send)
        except Exception:  # raised for the scope's type (`auto` of servers): the application has no lifespan
            if answered:
                raise


def with_lifespans(routes: Sequence[BaseRoute]) -> tuple[list[BaseRoute], list[Component]]:
    """The program's routes with started applications behind them, and the components that start and stop these.

    An application that is mounted at several paths is started once. The program's own route objects are not changed.
    """
    applications: dict[int, MountedLifespan] = {}
    found: list[BaseRoute] = []
    for route in routes:
        if isinstance(route, Mount | Host):
            path = route.path if isinstance(route, Mount) else route.host
            application = applications.setdefault(id(route.app), MountedLifespan(route.app, path))
            route = copy.copy(route)  # the program keeps its own
            route.app = application
        found.append(route)
    return found, [
        Component(f"mounted application {one.path or '/'}", one.start, one.stop)
        for one in applications.values()
    ]
