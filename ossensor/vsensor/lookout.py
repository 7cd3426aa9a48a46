"""What may be looked at, with either token: the live state as JSON, as events and as metrics. docs/protocol.md.

Metrics are behind the same door and no port of their own: they name every host that is watched, Prometheus can show a
token (`authorization`, `tls_config`), and a second listener would be one more thing in clear text to keep from others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import exposition, glimpse, openapi
from .collector import Collector
from .entrance import Entrance, answer, spelled
from .events import Events
from .trail import Who


class Lookout:
    """For one event loop. Shows what the collector knows."""

    def __init__(self, entrance: Entrance, collector: Collector, events: Events) -> None:
        self._entrance = entrance
        self._collector = collector
        self._events = events
        self.routes = [
            Route("/v1/sensors", self.sensors, methods=["GET"]),
            Route("/v1/sensors/{name}", self.sensor, methods=["GET"]),
            Route("/v1/events", self.events, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def sensors(self, request: Request) -> Response:
        return await self._show(request, self._all)

    async def sensor(self, request: Request) -> Response:
        async def one() -> Response:
            name = request.path_params["name"]
            found = self._collector.live.sensor(name)
            if found is None:
                return answer(404, {"faults": [f"no sensor {name[:64]!a} was heard of"]})
            return answer(200, found)

        return await self._show(request, one)

    async def events(self, request: Request) -> Response:
        async def stream() -> Response:
            return self._events.response(self._entrance.stays(request))

        return await self._show(request, stream)

    async def metrics(self, request: Request) -> Response:
        return await self._show(request, self._measured)

    async def openapi(self, request: Request) -> Response:
        async def document() -> Response:
            return answer(200, openapi.document())

        return await self._show(request, document)

    async def _all(self) -> Response:
        return spelled(200, await glimpse.text(self._collector.live))

    async def _measured(self) -> Response:
        collector = self._collector
        requests = {"batch": dict(collector.tally), "control": dict(collector.controls)}
        gauges = {
            "held_bytes": collector.budget.lent_bytes,
            "event_readers": self._events.readers,
            "store_ok": int(collector.is_well),
        }
        snapshot = await glimpse.snapshot(collector.live)
        text = await asyncio.to_thread(exposition.metrics, snapshot, requests, gauges)
        return Response(text, headers={"Content-Type": exposition.TYPE, "Cache-Control": "no-store"})

    async def _show(self, request: Request, show: Callable[[], Awaitable[Response]]) -> Response:
        async def act(_who: Who, _content: bytes) -> Response:
            return await show()

        return await self._entrance.take(request, act, to_look=True)
