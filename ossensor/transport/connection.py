"""What requests and urllib3 are bent to: a literal address, a context of ours, no redirects, no environment.

The adapter alone is used, without a session: that would let REQUESTS_CA_BUNDLE of the environment override the
verification asked for here, and would look up a redirect's next request even where it is not to follow it, for which it
reads and unpacks the whole body, whatever a stranger sends.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection


class PinError(ssl.SSLError):
    """The certificate is not the one that was proven."""


class Adapter(requests.adapters.HTTPAdapter):
    """Connects to a literal address, and verifies the certificate for the name that was configured.

    `connected` is given each new socket before anything is sent, and may refuse it.
    """

    def __init__(self, host: str, context: ssl.SSLContext, connected: Callable[[Any], None]) -> None:
        class Connection(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                connected(self.sock)
                self.is_verified = True  # by CAs or by `connected`; urllib3 would warn of the latter

        class Pool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Connection

        self._pool_class = Pool
        self._context = context
        # OpenSSL checks the name. `assert_hostname` would have urllib3 do it, and log the certificate by itself.
        self._tls: dict[str, Any] = {"ssl_context": context, "server_hostname": host}
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002  the base class's signature
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._tls)
        self.poolmanager.pool_classes_by_scheme = {"https": self._pool_class}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ARG002
        """Requests would load certifi's roots into our context here; the context already says whom to trust."""
        conn.cert_reqs = self._context.verify_mode


def tls_context(trust: str, ca_file: str | None) -> ssl.SSLContext:
    """For `ca`, verifies against that file or the system's CAs; for `key`, nothing: what is there is proven and pinned.

    Raises OSError or ssl.SSLError for a bad file.
    """
    # Not create_default_context(): with SSLKEYLOGFILE in the environment that opens a log of the sessions' keys. In a
    # child its descriptor is closed (workers/child.py), and OpenSSL goes on writing to whatever has the number next.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust == "key":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        context.load_verify_locations(ca_file)
        # What is in the file is trusted, whoever issued it: the vSensor's own certificate, or an intermediate one.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
