"""The commands that the documents show: what a reader copies into a shell.

Every fenced block says what it is; `sh` is what is copied. What no test runs is in NOT_RUN, each with its reason: all
else is run by tests/netns/test_documented_commands.py, page by page, in the page's order.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*/README.md")])
}
# What a block may be: to be copied; shown by a program, or drawn; and files.
LANGUAGES: Final = frozenset({"sh", "text", "ini", "json", "conf"})
BLOCK: Final = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The commands of a page, in its order: one a line, or several lines joined by `\\`, less what a comment says."""
    blocks = [body for _, language, body in BLOCK.findall(text) if language == "sh"]
    lines = [line.strip() for body in blocks for line in re.sub(r"\\\n\s*", "", body).splitlines()]
    return [command for line in lines if (command := re.sub(r"(^|\s+)#( .*)?$", "", line))]


_THIS: Final = "it is what runs this"
_HOURS: Final = "takes minutes of both processors for what `make test` has a short form of"
_PODMAN: Final = "takes podman and minutes: `make containers`, with tests/containers/test_documented_containers.py"
_NATS: Final = (
    "takes servers: tests/netns/test_scale_out.py has three, tests/unit/test_jetstream_live.py TLS and logins"
)
_SURICATA: Final = "takes Suricata, and tests/netns/test_streams.py has it read both streams"
_AWS: Final = "takes an account at AWS; what goes in and comes out is tested: tests/ecs/test_add_sidecar.py"
_TRIAL: Final = "tests/conformance is it, and starts the receivers itself when none is given"
NOT_RUN: Final[dict[str, dict[str, str]]] = {
    "README.md": {
        "make test": _THIS,
        "podman build -t ossensor .": _PODMAN,
        "podman build --target vsensor -t ossensor-vsensor .": _PODMAN,
        "podman secret create key hmac.key": _PODMAN,
        "podman run --network container:APPLICATION --cap-drop all --cap-add NET_RAW --read-only --security-opt "
        "no-new-privileges -e VSENSOR_HOSTNAME=vsensor.example -e VSENSOR_PORT=8443 "
        "-e VSENSOR_HMAC_KEY_FILE=/run/secrets/key --tmpfs /run/secrets --secret key ossensor": _PODMAN,
    },
    "CONTRIBUTING.md": {
        "make install": "the first step of `make test`",
        "make test": _THIS,
        "make run": "README's",
        "make fuzz": _HOURS,
        "make coverage": _HOURS,
        "make mutations": _HOURS,
        "make containers": _PODMAN,
        ".venv/bin/pytest tests/model -q": _THIS,
        ".venv/bin/pytest tests/unit -q": _THIS,
        ".venv/bin/pytest tests/netns -q -s": _THIS,
    },
    "SECURITY.md": {'podman cp "$(podman create ossensor)":/usr/share/ossensor/sbom.cdx.json .': _PODMAN},
    "deploy/ecs/README.md": {
        'openssl rand -hex 32 | tr -d "\\n" | aws secretsmanager create-secret --name ossensor-key '
        "--secret-string file:///dev/stdin": _AWS,
        "aws ecs describe-task-definition --task-definition web --include TAGS > before.json": _AWS,
        "aws ecs register-task-definition --cli-input-json file://with-sensor.json": _AWS,
    },
    "docs/protocol.md": {
        'pytest tests/conformance --receiver https://localhost:8443 --receiver-key "$(cat hmac.key)"': _TRIAL
    },
    "docs/scale-out.md": {
        "NATS=tls://n1:4222,tls://n2:4222,tls://n3:4222": _NATS,
        "ossensor vsensor --listen 0.0.0.0:8443 --store /var/lib/ossensor --tls-cert cert.pem "
        "--tls-key key.pem --jetstream $NATS --nats-ca ca.pem --nats-creds vsensor.creds": _NATS,
        "ossensor consume $NATS --store /srv/packets --nats-ca ca.pem --nats-creds consumer.creds": _NATS,
        "ossensor audit /srv/packets": _NATS,
        "ossensor consume $NATS --store /srv/a --part 1/3": _NATS,
        "ossensor consume $NATS --store /srv/b --part 2/3": _NATS,
        "ossensor consume $NATS --store /srv/c --part 3/3": _NATS,
        "ossensor audit /srv/a /srv/b /srv/c": _NATS,
    },
    "docs/vsensor.md": {
        "bash -c 'cat < /dev/tcp/127.0.0.1/57012' | suricata -r /dev/stdin -S my.rules -l logs": _SURICATA,
    },
}


def to_run(page: str) -> list[str]:
    """The page's commands that tests/netns runs."""
    return [command for command in commands(PAGES[page]) if command not in NOT_RUN.get(page, {})]
