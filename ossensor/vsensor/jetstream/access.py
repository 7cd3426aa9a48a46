"""How a NATS server is reached: its options, what is wrong with them, and what they become."""

from __future__ import annotations

import argparse
import importlib.util
import re
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import credentials

# Credentials in a URL would be in the process list, for everybody to read.
_URL: Final = re.compile(r"(nats|tls)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([1-9][0-9]{0,4})")
_FORBIDDEN: Final = stat.S_IWGRP | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Access:
    """Where the servers are, and how we show who we are. The repr shows no secret."""

    servers: tuple[str, ...]
    tls: ssl.SSLContext | None = None
    credentials: str | None = None  # a .creds file, read anew at each connection
    login: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """For nats.connect()."""
        found: dict[str, Any] = {"servers": list(self.servers)}
        if self.tls is not None:
            found["tls"] = self.tls
        if self.credentials is not None:
            found["user_credentials"] = credentials.Credentials(self.credentials)
        if self.login is not None:
            found["user"], found["password"] = self.login
        return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("NATS", "how its servers are reached")
    group.add_argument(
        "--nats-ca", metavar="FILE", help="TLS, verified by these CAs (default for tls://: the system's)"
    )
    group.add_argument("--nats-cert", metavar="FILE", help="our certificate chain, for servers that verify clients")
    group.add_argument("--nats-key", metavar="FILE", help="its private key, unencrypted")
    group.add_argument("--nats-creds", metavar="FILE", help="user credentials: a JWT and its seed, as nsc writes them")
    group.add_argument("--nats-login-file", metavar="FILE", help="user and password, as USER:PASSWORD in one line")


def given(args: argparse.Namespace) -> list[str]:
    """The options among these that were given."""
    names = ("nats_ca", "nats_cert", "nats_key", "nats_creds", "nats_login_file")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


def parse(option: str, urls: str, args: argparse.Namespace, faults: list[str]) -> Access:
    """The access; meaningless when faults were added."""
    if importlib.util.find_spec("nats") is None:
        faults.append(f"{option}: needs the package nats-py: install ossensor[vsensor,jetstream]")
    servers = tuple(urls.split(","))
    # The text is not shown: somebody may have put a password into it.
    bad = [n for n, url in enumerate(servers, 1) if not (m := _URL.fullmatch(url)) or int(m[3]) > 65535]
    faults += [f"{option}: address {n} is not nats://HOST:PORT or tls://HOST:PORT, without a password" for n in bad]
    if (args.nats_cert is None) != (args.nats_key is None):
        faults.append("--nats-cert and --nats-key: give both or neither")
    if args.nats_creds is not None and args.nats_login_file is not None:
        faults.append("--nats-creds and --nats-login-file: give one")
    if args.nats_creds is not None:
        _read("--nats-creds", args.nats_creds, faults, credentials.parse)
    login = None
    if args.nats_login_file is not None:
        user, _, password = _read("--nats-login-file", args.nats_login_file, faults, _login).partition(":")
        login = (user, password)
    return Access(servers, _tls(servers, args, faults), args.nats_creds, login)


def _tls(servers: tuple[str, ...], args: argparse.Namespace, faults: list[str]) -> ssl.SSLContext | None:
    if args.nats_ca is None and args.nats_cert is None and not any(url.startswith("tls:") for url in servers):
        return None
    try:
        context = ssl.create_default_context(cafile=args.nats_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if args.nats_cert is not None and args.nats_key is not None:
            # An encrypted key would be asked for at the terminal, by OpenSSL.
            context.load_cert_chain(args.nats_cert, args.nats_key, password="")
    except (OSError, ValueError) as e:
        why = e.reason if isinstance(e, ssl.SSLError) else getattr(e, "strerror", None)
        faults.append(f"--nats-ca, --nats-cert, --nats-key: unusable: {why or type(e).__name__}")
        return None
    return context


def _login(text: str) -> str:
    if ":" not in text:
        raise ValueError("not USER:PASSWORD")
    return text.removesuffix("\n")


def _read(option: str, path: str, faults: list[str], parsed: Callable[[str], str]) -> str:
    """What `parsed` makes of a file of secrets; with a fault added, "". The fault never shows what was read."""
    try:
        _insist_on_privacy(path)
        return parsed(credentials.read(path))
    except ValueError as e:
        faults.append(f"{option}: {path}: {e}")
    return ""


def _insist_on_privacy(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except OSError as e:
        raise ValueError(e.strerror) from e
    if not stat.S_ISREG(mode):
        raise ValueError("not a file")
    if mode & _FORBIDDEN:
        raise ValueError(f"its mode is {stat.S_IMODE(mode):04o}, others may read or change it (chmod 600)")
