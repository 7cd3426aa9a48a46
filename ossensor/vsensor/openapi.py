"""The operator's paths as an OpenAPI document (3.1). Pure; tests hold it against the routes and against real replies.

By hand: what a framework derives from handlers says what they return, and here the words are wanted, too. The sensors'
paths are not in it: they are signed, and docs/protocol.md is what it takes to speak them.
"""

from __future__ import annotations

from typing import Any, Final

from ossensor import __version__
from ossensor.antigena.actions import MAX_DURATION_S, MAX_REASON_CHARACTERS, MAX_TIME_S

from .live import VERDICTS

_Schema = dict[str, Any]

_ID: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


def _object(members: dict[str, _Schema], optional: tuple[str, ...] = (), **more: Any) -> _Schema:
    """An object with these members and no others; all of them have to be there but the optional ones."""
    required = [name for name in members if name not in optional]
    return {"type": "object", "properties": members, "required": required, "additionalProperties": False, **more}


def _map(of: _Schema) -> _Schema:
    return {"type": "object", "additionalProperties": of}


def _refer(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(kind: str) -> _Schema:
    return {"type": [kind, "null"]}


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = {"type": "number", "description": "Unix seconds, by the vSensor's clock"}
_RATE: Final = {"type": "number", "minimum": 0, "description": "a second, over `rate_window_s`"}
_DURATION: Final = {"type": "integer", "minimum": 1, "maximum": MAX_DURATION_S, "description": "seconds"}
_WHEN: Final = {"type": "integer", "minimum": 0, "maximum": MAX_TIME_S, "description": "Unix seconds"}
_VERDICT: Final = {
    "enum": list(VERDICTS),
    "description": "balanced: the capture ended, and every packet is explained. open: it goes on, and nothing is known "
    "to be missing. lost: the sensor gave batches up. not balanced: its books contradict themselves.",
}

_INTERFACE: Final = _object(
    {
        "stored_s": {**_or_null("number"), "description": "when the latest batch was stored"},
        "batches": _COUNT,
        "packets": _COUNT,
        "section_bytes": {**_COUNT, "description": "of pcapng, so with some 32 bytes around each packet"},
        "packets_per_s": _RATE,
        "bytes_per_s": _RATE,
        "repeats": {**_COUNT, "description": "batches that came again, and were stored already"},
        "delay_s": {
            **_or_null("number"),
            "description": "from the newest packet of the latest batch, by the sensor's clock, until it was stored",
        },
        "epoch": {**_TEXT, "description": "the newest capture's; the next three members are of its latest batch"},
        "received": {**_COUNT, "description": "the kernel's count, drops included; about a second behind"},
        "kernel_drops": _COUNT,
        "dropped": _object(
            {"rejected": _COUNT, "too_large": _COUNT, "corrupt": _COUNT},
            description="packets that the sensor gave up since it took up the interface, by reason",
        ),
        "lost_packets": {**_COUNT, "description": "of batches that will not come"},
        "verdict": _VERDICT,
        "faults": {**_COUNT, "description": "contradictions in the books"},
        "last_fault": _TEXT,
    }
)
_SENSOR: Final = _object(
    {
        "first_heard_s": _TIME,
        "heard_s": _TIME,
        "is_silent": {"type": "boolean", "description": "for three minutes"},
        "introduced_s": _or_null("number"),
        "application": _TEXT,
        "host": _TEXT,
        "task": {**_map(_TEXT), "description": "of the ECS task, where there is one"},
        "captures": {"type": "array", "items": _TEXT, "description": "interfaces, as introduced"},
        "captures_in_all": _COUNT,
        "packet_filter_refused": {**_TEXT, "description": "why the packet filter asked for is not in force"},
        "antigena_mode": _TEXT,
        "antigena": {
            "oneOf": [
                {"type": "null"},
                _object(
                    {
                        "reported_s": _TIME,
                        "mode": _TEXT,
                        "book": _TEXT,
                        "version": _COUNT,
                        "actions": _COUNT,
                        "refused": _COUNT,
                        "trouble": _TEXT,
                    }
                ),
            ]
        },
        "packets": _COUNT,
        "section_bytes": _COUNT,
        "packets_per_s": _RATE,
        "bytes_per_s": _RATE,
        "verdict": {**_VERDICT, "description": "the worst of its interfaces"},
        "interfaces": {**_map(_refer("Interface")), "description": "those that batches came of"},
    }
)
_SNAPSHOT: Final = _object(
    {
        "time_s": _TIME,
        "since_s": {**_TIME, "description": "when this process began to count"},
        "rate_window_s": _COUNT,
        "sensors": _map(_refer("Sensor")),
        "forgotten_sensors": _COUNT,
        "forgotten_interfaces": _COUNT,
    }
)
_SIDE: Final = {
    "oneOf": [
        {"type": "null"},
        _object(
            {
                "network": {**_or_null("string"), "description": "ADDRESS or ADDRESS/LENGTH"},
                "port": {"type": ["integer", "null"], "minimum": 0, "maximum": 65535},
            },
            ("network", "port"),
        ),
    ]
}
_ACTION: Final = _object(
    {
        "id": {"type": "string", "pattern": _ID},
        "kind": {"enum": ["block", "quarantine"]},
        "protocol": {"enum": ["tcp", "udp", "any"]},
        "direction": {"enum": ["all", "outgoing", "incoming"]},
        "reason": {"type": "string", "maxLength": MAX_REASON_CHARACTERS},
        "source": _SIDE,
        "destination": _SIDE,
        "start_s": _WHEN,
        "expires_s": _WHEN,
    },
    ("id", "protocol", "direction", "reason", "source", "destination", "start_s", "expires_s"),
)
_TARGET: Final = {
    "oneOf": [
        _object({"sensor": {"type": "string", "pattern": _NAME}}),
        _object({"family": {"type": "string", "minLength": 1, "maxLength": 255}}),
        _object({"all": {"const": True}}),
    ]
}
_ORDER: Final = {"target": _refer("Target"), "action": _refer("Action")}
_LISTING: Final = _object(
    {
        "book": _TEXT,
        "version": _COUNT,
        "time_s": _COUNT,
        "orders": {
            "type": "array",
            "items": _object(
                {
                    **_ORDER,
                    "in_force": {"type": "boolean"},
                    "sensors": _map(_object({"counts": _map(_COUNT), "refused": _TEXT})),
                }
            ),
        },
        "sensors": _map(
            _object({"mode": _TEXT, "heard_s": _COUNT, "current": {"type": "boolean"}, "trouble": _TEXT}),
        ),
    }
)

_SCHEMAS: Final = {
    "Snapshot": _SNAPSHOT,
    "Sensor": _SENSOR,
    "Interface": _INTERFACE,
    "Target": _TARGET,
    "Action": _ACTION,
    "NewOrder": _object({**_ORDER, "duration_s": _DURATION}, ("duration_s",)),
    "Order": _object({"version": _COUNT, **_ORDER}),
    "Orders": _LISTING,
    "Extension": _object({"duration_s": _DURATION}),
    "Faults": _object({"faults": {"type": "array", "items": _TEXT, "minItems": 1}}),
}

_REPLIES: Final = {
    "400": "No HTTP that can be read.",
    "401": "No token, or the wrong one; no body.",
    "404": "Not there.",
    "408": "The body did not come; no body.",
    "409": "The id is in force, or there is no room.",
    "411": "No usable Content-Length; no body.",
    "413": "The body is over 16 KiB; no body.",
    "415": "Another Content-Type than application/json.",
    "422": "Not what is taken here.",
    "429": "Too many wrong tokens from this address; no body.",
    "503": "Enough readers; no body.",
    "507": "The store's disk does not take it.",
}
_WITH_FAULTS: Final = frozenset({"404", "409", "415", "422", "507"})
_ALWAYS: Final = ("401", "408", "413", "429")


def _reply(meaning: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": meaning, **({"content": content} if content else {})}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _refer(schema)}}


def _operation(
    name: str, summary: str, good: dict[str, dict[str, Any]], *refusals: str, body: str = "", path: str = ""
) -> dict[str, Any]:
    """One operation: its `good` replies, `refusals` besides those of all, the body's schema, the path's parameter."""
    failures = {
        status: _reply(_REPLIES[status], _json("Faults") if status in _WITH_FAULTS else None)
        for status in sorted({*_ALWAYS, *refusals})
    }
    pattern = _NAME if path == "name" else _ID
    parameter = {"name": path, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": [parameter]} if path else {}),
        **({"requestBody": {"required": True, "content": _json(body)}} if body else {}),
        "responses": {**good, **failures},
    }


def document() -> dict[str, Any]:
    """The whole document, fit for json.dumps."""
    order = _json("Order")
    changed = ("404", "422", "507")
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    metrics = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ossensor vSensor, the operator's side",
            "version": __version__,
            "description": "What is going on, and what Antigena is ordered to end. See docs/protocol.md.",
        },
        "security": [{"token": []}],
        "paths": {
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "For a load balancer",
                    "security": [],
                    "responses": {"200": _reply("Well."), "503": _reply("The disk takes nothing.")},
                }
            },
            "/metrics": {"get": _operation("metrics", "For Prometheus", {"200": _reply("Metrics.", metrics)})},
            "/openapi.json": {
                "get": _operation(
                    "document", "This", {"200": _reply("It.", {"application/json": {"schema": {"type": "object"}}})}
                )
            },
            "/v1/sensors": {
                "get": _operation("sensors", "What every sensor is doing", {"200": _reply("All.", _json("Snapshot"))})
            },
            "/v1/sensors/{name}": {
                "get": _operation(
                    "sensor", "What one sensor is doing", {"200": _reply("It.", _json("Sensor"))}, "404", path="name"
                )
            },
            "/v1/events": {
                "get": _operation(
                    "events", "The snapshot, once a second", {"200": _reply("Events `snapshot`.", events)}, "503"
                )
            },
            "/v1/antigena/actions": {
                "get": _operation("orders", "All orders", {"200": _reply("All.", _json("Orders"))}, "507"),
                "post": _operation(
                    "order",
                    "Order connections ended",
                    {"201": _reply("In force, or will be.", order)},
                    *("409", "411", "415", "422", "507"),
                    body="NewOrder",
                ),
            },
            "/v1/antigena/actions/{id}": {
                "delete": _operation(
                    "clear", "End an order", {"200": _reply("What it was.", order)}, *changed, path="id"
                )
            },
            "/v1/antigena/actions/{id}/extend": {
                "post": _operation(
                    "extend",
                    "Let an order last longer, to 31 days from now at most",
                    {"200": _reply("As it is now.", order)},
                    *("411", "415", *changed),
                    body="Extension",
                    path="id",
                )
            },
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
