"""What the collector's requests and the operator's have in common before anybody knows who asks."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .verify import Head


def head(request: Request) -> Head:
    """As received: Latin-1 maps each byte to one character, so nothing is lost before `verify` sees it."""
    scope = request.scope
    return Head(
        method=scope["method"],
        path=scope["raw_path"].decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        fields=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
    )


def closing(status: int) -> Response:
    """No body, no signature, and the connection ends with its unread body."""
    return Response(status_code=status, headers={"Connection": "close"})
