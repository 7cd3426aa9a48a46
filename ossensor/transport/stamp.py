"""What a request needs to be made and believed."""

from __future__ import annotations

from typing import NamedTuple

from .signing import Key, Nonce


class Stamp(NamedTuple):
    """For one request, at one moment."""

    address: str
    generation: int  # of the address
    created_s: int
    nonce: Nonce
    key: Key
    pin: str = ""  # SHA-256 of the certificate that was proven, in hex; empty where CAs decide
    port: int | None = None  # of the address; None: the configured one
