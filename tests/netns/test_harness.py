"""The harness against itself, without a sensor: what the other tests rest on."""

from __future__ import annotations

import collections
import json
import signal
import socket
import statistics
from functools import partial
from pathlib import Path

import pytest
from harness import frames, proc
from harness.captures import CutShortError, Witness, read_pcap, read_pcapng, tshark
from harness.manager import manager
from harness.programs import Program, environment, log_line
from harness.replay import replay
from harness.world import World, tag_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def test_frames_are_distinct_numbered_reach_both_ends_of_the_sizes_and_come_again_from_their_seed() -> None:
    made = frames.mixed(seed=1, tag=3, count=100_000)

    assert len(set(made)) == 100_000
    assert list(frames.ours(made, 3)) == list(range(100_000))
    assert (min(map(len, made)), max(map(len, made))) == (14, 65_226)
    assert 600 < statistics.mean(map(len, made)) < 730
    assert made[:1000] == frames.mixed(seed=1, tag=3, count=1000)
    types = collections.Counter(frame[12:14].hex() for frame in made)
    assert {name for name, times in types.items() if times > 1000} == {"0800", "0806", "86dd"}
    assert len(types) > 1000
    assert types["8100"] + types["88a8"] == 0


def test_small_frames_have_the_lengths_that_their_headers_say_and_carry_their_number() -> None:
    made = [frames.small(7, number) for number in range(300)]

    assert list(frames.ours(made, 7)) == list(range(300))
    assert [int.from_bytes(frame[16:18]) for frame in made] == [len(frame) - 14 for frame in made]
    assert (min(map(len, made)), max(map(len, made))) == (60, 299)


def test_the_pcap_reader_returns_what_was_written_and_wireshark_can_read_it(tmp_path: Path) -> None:
    made = frames.mixed(seed=2, tag=1, count=2000)
    path = tmp_path / "made.pcap"
    frames.write_pcap(path, made)

    assert [packet.data for packet in read_pcap(path)] == made
    assert tshark(path) == 2000
    assert tshark(path, "arp") > 0


def test_what_is_replayed_onto_a_link_arrives_once_in_order_and_alone(world: World, tmp_path: Path) -> None:
    world.add_link("cap0", "cap1")
    made = frames.mixed(seed=3, tag=0, count=20_000)

    with Witness(world.sensor, "cap0", tmp_path / "seen", count=20_000) as seen:
        (rate,) = replay(world.generator, {"cap0": made}, per_second=20_000, folder=tmp_path)

    assert [packet.data for packet in seen.packets()] == made
    assert 0 < rate < 21_000  # as fast as was asked for at most; that is what the links are sure to carry
    assert world.arrived("cap1") == 0


def _dumpcap(world: World, path: Path, *, count: int) -> Program:
    """Wireshark's own capture of so many packets, listening."""
    dumpcap = world.start(world.sensor, "dumpcap", "-q", "-i", "cap0", "-c", str(count), "-w", str(path))
    proc.eventually("dumpcap listens", lambda: any(line.startswith("File:") for line in dumpcap.lines))
    return dumpcap


def test_the_pcapng_reader_finds_in_a_capture_of_wiresharks_what_was_sent(world: World, tmp_path: Path) -> None:
    world.add_link("cap0")
    path = tmp_path / "seen.pcapng"
    dumpcap = _dumpcap(world, path, count=100)

    with Witness(world.sensor, "cap0", tmp_path / "seen.pcap", count=100) as seen:
        world.send("cap0", 100)

    assert dumpcap.wait() == 0
    packets = read_pcapng(path)
    assert [packet.data for packet in packets] == [frames.small(tag_for("cap0"), number) for number in range(100)]
    assert {packet.interface for packet in packets} == {"cap0"}
    apart_ns = [abs(p.time_ns - q.time_ns) for p, q in zip(packets, seen.packets(), strict=True)]
    assert statistics.median(apart_ns) < 1_000_000


def test_the_pcapng_reader_refuses_a_file_that_is_cut_anywhere(world: World, tmp_path: Path) -> None:
    world.add_link("cap0")
    path, cut = tmp_path / "seen.pcapng", tmp_path / "cut.pcapng"
    dumpcap = _dumpcap(world, path, count=3)
    world.send("cap0", 3)
    assert dumpcap.wait() == 0
    whole = path.read_bytes()

    for length in range(1, len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CutShortError):
            read_pcapng(cut)
        assert read_pcapng(cut, finished=False) == []
    cut.write_bytes(whole + whole[:-1])
    assert len(read_pcapng(cut, finished=False)) == 3


def test_a_link_answers_nothing(world: World) -> None:
    world.add_link("cap0")
    world.send("cap0", 10)

    counters = world.sensor.links()["cap0"]["stats64"]
    assert (counters["rx"]["packets"], counters["tx"]["packets"]) == (10, 0)


def test_a_sender_says_exactly_how_much_it_sent(world: World, tmp_path: Path) -> None:
    world.add_link("cap0")

    with Witness(world.sensor, "cap0", tmp_path / "seen", count=1000) as seen:
        sender = world.sender("cap0", per_second=2000)
        proc.eventually("1,000 frames", lambda: world.arrived("cap0") >= 1000)
        sent = sender.stop()

    assert sent == world.arrived("cap0")
    assert list(frames.ours((packet.data for packet in seen.packets()), tag_for("cap0"))) == list(range(1000))


def test_a_program_is_watched_by_its_json_lines_and_ended_with_all_its_children(world: World) -> None:
    script = f"echo plain >&2; echo '{json.dumps({'message': 'up', 'n': 2})}' >&2; sleep 1000 & wait"
    program = Program(world.sensor.inside("sh", "-c", script), environment({}))

    assert program.wait_for("up", n=2)["n"] == 2
    (child,) = proc.eventually("the child", lambda: proc.children(program.pid))
    assert proc.gone_within([child], proc.HANGS_S, program.close) == set()


def test_a_record_that_came_between_two_pieces_of_another_line_is_found(world: World) -> None:
    record = json.dumps({"message": "books closed: received=3", "interface": "cap0"})
    program = world.start(world.sensor, "sh", "-c", f"printf '  File ' >&2; echo '{record}' >&2; sleep 1000 & wait")

    assert program.wait_for("books closed: received=3")["interface"] == "cap0"
    assert list(map(log_line, program.lines)) == [record]


def test_processor_time_is_that_of_the_whole_tree(world: World) -> None:
    busy = world.start(world.sensor, "sh", "-c", "(while :; do :; done) & wait")
    idle = world.start(world.sensor, "sh", "-c", "echo ready >&2; sleep 1000 & wait")
    idle.wait_for_line("ready")
    proc.eventually("it sleeps", lambda: [proc.comm(child) for child in proc.children(idle.pid)] == ["sleep"])
    before_s = proc.cpu_s(idle.pid)

    proc.eventually("half a second of work in the child", lambda: proc.cpu_s(busy.pid) > 0.5)
    assert proc.cpu_s(idle.pid) - before_s < 0.1


def test_of_three_attempts_the_quickest_counts_and_one_inside_the_limit_is_enough() -> None:
    assert proc.quickest(1.0, partial(next, iter([3.0, 0.5, 0.1]))) == 0.5
    assert proc.quickest(1.0, partial(next, iter([3.0, 2.0, 4.0, 0.1]))) == 2.0


def test_what_a_service_said_before_a_question_is_in_the_managers_answer(tmp_path: Path) -> None:
    with manager(tmp_path) as systemd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.connect(systemd.environment["NOTIFY_SOCKET"])
        for number in range(500):
            service.send(b"STATUS=%d" % number)
            assert systemd.heard()[-1] == f"STATUS={number}"


def test_a_process_that_does_not_end_is_reported(world: World) -> None:
    program = Program(world.sensor.inside("sleep", "1000"), environment({}))

    assert proc.gone_within([program.pid], 0.1, lambda: None) == {program.pid}
    program.signal(signal.SIGTERM)
    assert program.wait() == -signal.SIGTERM
