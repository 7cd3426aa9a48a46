"""An operator, its accounts and a user of NATS, as `nsc` makes them: what a server trusts, and a .creds file.

Source: NATS' "Decentralized JWT Authentication", and its Go library jwt (version 2 of the claims).
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any, NamedTuple

import nkeys

_LIMITS = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
_JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)  # forbidden to a system account


class Identities(NamedTuple):
    """`configuration` is the server's; the other two are what a user's file holds."""

    configuration: str
    jwt: str
    seed: str

    @property
    def file(self) -> str:
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n\n"
        )


def _key(prefix: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _jwt(issuer: Any, subject: Any, name: str, nats: dict[str, Any]) -> str:
    claims = {"jti": name, "iat": int(time.time()), "iss": issuer.public_key.decode(), "name": name}
    claims |= {"sub": subject.public_key.decode(), "nats": nats | {"version": 2}}
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
    signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{_base64(issuer.sign(signed.encode()))}"


def make() -> Identities:
    operator, user = _key(nkeys.PREFIX_BYTE_OPERATOR), _key(nkeys.PREFIX_BYTE_USER)
    system, account = _key(nkeys.PREFIX_BYTE_ACCOUNT), _key(nkeys.PREFIX_BYTE_ACCOUNT)
    accounts = {
        key.public_key.decode(): _jwt(operator, key, name, {"type": "account", "limits": limits})
        for key, name, limits in ((system, "system", _LIMITS), (account, "sensors", _LIMITS | _JETSTREAM))
    }
    preloaded = "\n".join(f"{key}: {jwt}" for key, jwt in accounts.items())
    configuration = (
        f"max_payload: 9MB\noperator: {_jwt(operator, operator, 'operator', {'type': 'operator'})}\n"
        f"system_account: {system.public_key.decode()}\nresolver: MEMORY\nresolver_preload: {{\n{preloaded}\n}}\n"
    )
    allowed = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
    jwt = _jwt(account, user, "vsensor", {"type": "user"} | allowed)
    return Identities(configuration, jwt, user.seed.decode())
