"""Somebody stands where the vSensor should: he is found out, named in the log, and gets not one packet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from harness import proc
from harness.programs import make_certificate
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

# Ends TLS with a certificate of his own and writes down every request line and how many bytes of bodies came with it;
# passes all of it on to the vSensor, and the answers back, or answers "200" himself.
_MIDDLE = """
import socket, ssl, sys, threading
certificate, key, notes, relay = sys.argv[1:5]
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(certificate, key)
trusting = ssl._create_unverified_context()
lock = threading.Lock()
def note(text):
    with lock, open(notes, "a") as file:
        file.write(text + "\\n")
def head(stream):
    lines = []
    while (line := stream.readline()) not in (b"\\r\\n", b""):
        lines.append(line)
    lengths = [int(l.split(b":")[1]) for l in lines if l.lower().startswith(b"content-length")]
    return b"".join(lines), lengths[0] if lengths else 0
def serve(plain):
    with server.wrap_socket(plain, server_side=True) as tls, tls.makefile("rb") as stream:
        while True:
            request, length = head(stream)
            if not request:
                return
            body = stream.read(length)
            note(f"{request.split()[0].decode()} {request.split()[1].decode()} {len(body)}")
            if relay == "relay":
                with socket.create_connection(("10.9.0.2", 8443)) as there, trusting.wrap_socket(there) as on:
                    on.sendall(request + b"\\r\\n" + body)
                    with on.makefile("rb") as answers:
                        answer, more = head(answers)
                        tls.sendall(answer + b"\\r\\n" + answers.read(more))
            else:
                tls.sendall(b"HTTP/1.1 200 OK\\r\\nossensor-outcome: registered\\r\\nContent-Length: 0\\r\\n\\r\\n")
def attempt(plain):
    try:
        serve(plain)
    except OSError as e:
        note(f"ended {type(e).__name__}")
with socket.create_server(("10.9.0.3", 8443)) as listener:
    print("ready", file=sys.stderr)
    while True:
        threading.Thread(target=attempt, args=(listener.accept()[0],), daemon=True).start()
"""
_IMPOSTOR = "somebody stands between us and the vSensor, which has another certificate"
_NO_KEY = "the vSensor's answer is not signed with our key"


@pytest.mark.parametrize(
    "how,trust,named",
    [
        ("alone", "key", _NO_KEY),
        ("relay", "key", _IMPOSTOR),
        ("alone", "ca", _NO_KEY),  # with a certificate from a CA that the sensor trusts
    ],
)
def test_a_man_in_the_middle_is_named_and_gets_no_packet(
    world: World, tmp_path: Path, open_folder: Path, how: str, trust: str, named: str
) -> None:
    folder = open_folder / f"middle-{how}-{trust}"
    folder.mkdir()
    his = make_certificate(folder, ("IP:10.9.0.3",))
    notes = tmp_path / "notes"
    world.add_link("cap0")
    world.start_vsensor("10.9.0.2")
    world.start(world.collector, sys.executable, "-c", _MIDDLE, *map(str, his), str(notes), how).wait_for_line("ready")
    changes = {"VSENSOR_HOSTNAME": "10.9.0.3", "VSENSOR_TLS": trust}
    if trust == "ca":
        changes["VSENSOR_CA_FILE"] = str(his[0])
    sensor = world.start_sensor("cap0", changes=changes)

    world.send("cap0", 1000)
    sensor.wait_for_line(named)
    proc.eventually("he was asked five times", lambda: len(notes.read_text().splitlines()) >= 5)
    code, _ = sensor.terminate()
    seen = notes.read_text().splitlines()

    print(f"{len(seen)} connections or requests: {sorted(set(seen))}")
    requests = {line for line in seen if not line.startswith("ended")}
    assert {line.rpartition(" ")[0] for line in requests} == {"POST /v1/sensors/netns-sensor/registration"}
    assert max(int(line.rpartition(" ")[2]) for line in requests) < 100
    assert world.interfaces_stored() == set()
    assert code == 0
    (books,) = [json.loads(line) for line in sensor.lines if "books closed" in line]
    counts = "received=1000 kernel_drops=0 delivered=0 in_flight=0 shutdown=1000 (balanced)"
    assert books["message"] == f"books closed: {counts}"


def test_the_vsensor_itself_is_pinned_and_gets_all(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")

    world.send("cap0", 1000)
    pinned = sensor.wait_for("the vSensor has proved to hold the key; its certificate is pinned")
    assert sensor.terminate()[0] == 0

    assert len(pinned["certificate_sha256"]) == 64
    assert world.stored_numbers("cap0") == list(range(1000))


def test_a_certificate_that_leads_to_the_given_ca_is_taken_where_cas_decide(
    world: World, certificate: tuple[Path, Path]
) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"VSENSOR_TLS": "ca", "VSENSOR_CA_FILE": str(certificate[0])})

    world.send("cap0", 1000)
    sensor.wait_for("the vSensor answers")
    assert sensor.terminate()[0] == 0

    assert world.stored_numbers("cap0") == list(range(1000))
