"""What `ossensor status` shows and what `ossensor health` concludes, from values; and the rates that both name."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from ossensor.status import text
from ossensor.status.antigena import actions
from ossensor.status.document import (
    InterfaceStatus,
    SensorStatus,
    SpoolStatus,
    UploaderStatus,
    decode,
    encode,
)
from ossensor.status.judgement import Level, findings, verdict
from ossensor.status.rates import Rates
from ossensor.status.upload import Upload, legible
from ossensor.transport.orders import Report

WELL = SensorStatus(
    version="0.1.0",
    sensor="vm",
    pid=4711,
    phase="running",
    up_s=192.0,
    vsensor="v.example:443",
    interfaces=[
        InterfaceStatus(
            "eth0", 2, up=True, state="running", received=1500, delivered=1490, in_flight=3, dropped={"rejected": 7},
            received_per_s=150.0, delivered_per_s=149.0, slots=8, slots_in_use=1, restarts=2,
        )
    ],
    uploader=UploaderStatus("running", 0, 0, "", Upload(reachable=True, batches=12, attempts=13, wire_bytes=3_000_000)),
    spool=SpoolStatus("/var/spool", 1 << 30),
)  # fmt: skip


def _interface(**changes: Any) -> SensorStatus:
    return dataclasses.replace(WELL, interfaces=[dataclasses.replace(WELL.interfaces[0], **changes)])


def _uploader(said: dict[str, Any] | None = None, **changes: Any) -> SensorStatus:
    before = WELL.uploader.said
    assert before is not None
    uploader = dataclasses.replace(WELL.uploader, said=dataclasses.replace(before, **(said or {})), **changes)
    return dataclasses.replace(WELL, uploader=uploader)


def test_a_sensor_that_lacks_nothing_is_healthy() -> None:
    assert verdict(WELL) == {"health": "healthy", "reasons": []}


@pytest.mark.parametrize(
    "sensor,level,why",
    [
        pytest.param(
            _uploader({"reachable": False, "trouble": "is VSENSOR_HMAC_KEY the same at both ends? (401)"}),
            Level.DEGRADED,
            "the vSensor v.example:443 is not reachable: is VSENSOR_HMAC_KEY the same at both ends? (401)",
            id="wrong key",
        ),
        pytest.param(
            _uploader({"trouble": "the vSensor cannot take a batch now (503)"}),
            Level.DEGRADED,
            "the vSensor v.example:443: the vSensor cannot take a batch now (503)",
            id="busy",
        ),
        pytest.param(
            _uploader({"spool_trouble": "No space left on device"}),
            Level.DEGRADED,
            "the spool takes nothing: No space left on device",
            id="full disk",
        ),
        pytest.param(
            _uploader(failures=2, trouble="signal 9"),
            Level.DEGRADED,
            "the uploader died 2 times in a row: signal 9",
            id="uploader died",
        ),
        pytest.param(
            _uploader(failures=7, trouble="exit 70"),
            Level.UNHEALTHY,
            "the uploader died 7 times in a row: exit 70",
            id="uploader in a loop",
        ),
        pytest.param(
            _interface(state="backoff", trouble="exit 70"),
            Level.DEGRADED,
            "eth0: not captured: exit 70",
            id="worker died",
        ),
        pytest.param(
            _interface(state="backoff", trouble="exit 70", failures=7),
            Level.UNHEALTHY,
            "no interface can be captured",
            id="every worker in a loop",
        ),
        pytest.param(
            _interface(state="absent", trouble="no memory", slots=0, slots_in_use=0),
            Level.DEGRADED,
            "eth0: not captured: no memory",
            id="no memory",
        ),
        pytest.param(
            _interface(kernel_drops_per_s=1234.5, received_per_s=100_000.0),
            Level.DEGRADED,
            "eth0: the kernel drops 1,234 of 100,000 packets/s",
            id="drops",
        ),
        pytest.param(
            _interface(slots_in_use=8), Level.DEGRADED, "eth0: all its slots wait for the vSensor", id="slots full"
        ),
        pytest.param(_interface(up=False), Level.DEGRADED, "eth0: is down", id="down"),
        pytest.param(
            _interface(trouble="its filter cannot be set"),
            Level.DEGRADED,
            "eth0: its filter cannot be set",
            id="captured with trouble",
        ),
        pytest.param(
            dataclasses.replace(WELL, interfaces=[]),
            Level.DEGRADED,
            "the rules choose no interface that is there",
            id="no interface",
        ),
        pytest.param(
            dataclasses.replace(WELL, notes=["SIGHUP: the old settings stay: BPF"]),
            Level.DEGRADED,
            "SIGHUP: the old settings stay: BPF",
            id="reload refused",
        ),
    ],
)
def test_each_fault_is_named_and_only_what_a_restart_might_cure_is_unhealthy(
    sensor: SensorStatus, level: Level, why: str
) -> None:
    assert (findings(sensor)[0].level, findings(sensor)[0].why) == (level, why)


def test_one_failing_interface_of_two_is_degraded() -> None:
    good = WELL.interfaces[0]
    bad = dataclasses.replace(good, name="eth1", state="backoff", failures=9, trouble="exit 70")

    assert verdict(dataclasses.replace(WELL, interfaces=[good, bad])) == {
        "health": "degraded",
        "reasons": ["eth1: not captured: exit 70"],
    }


def test_the_document_is_one_line_that_reads_back_as_it_was() -> None:
    data = encode(WELL, verdict(WELL))

    assert data.count(b"\n") == 1
    assert decode(data) == {"format": 1, "health": "healthy", "reasons": [], **dataclasses.asdict(WELL)}


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format": 2}', b"{" * 100_000, encode(WELL, {})[:-10]])
def test_what_is_no_document_of_this_format_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the answer is "):
        decode(data)


def test_people_see_every_figure_in_its_column() -> None:
    head, _, titles, row, _, *rest = text.lines(decode(encode(WELL, verdict(WELL))))

    assert head == "ossensor 0.1.0, sensor vm: healthy, running for 3 min 12 s, pid 4711"
    assert re.split("  +", titles) == list(text._HEAD)
    assert re.split("  +", row) == (
        "eth0|running|1,500|150|0|0|1,490|149|0|3|7 rejected|1/8|2".split("|")  # noqa: SIM905  as it reads
    )
    assert rest == [
        "uploader   running, 0 restarts",
        "vSensor    v.example:443 answers; 0 batches wait, 12 acknowledged in 13 attempts, 2.9 MiB sent",
        "spool      /var/spool: 0 B of 1.0 GiB",
    ]


def test_before_the_uploader_has_said_anything_nothing_is_claimed_of_the_vsensor_or_the_spool() -> None:
    silent = dataclasses.replace(WELL, uploader=dataclasses.replace(WELL.uploader, said=None))

    assert text.lines(decode(encode(silent, verdict(silent))))[-3:] == [
        "uploader   running, 0 restarts",
        "vSensor    v.example:443",
        "spool      /var/spool: ? of 1.0 GiB",
    ]


def test_without_a_spool_no_line_is_about_one() -> None:
    bare = dataclasses.replace(WELL, spool=None)

    assert text.lines(decode(encode(bare, verdict(bare))))[-1].startswith("vSensor    v.example:443 answers")


@pytest.mark.parametrize(
    "count,shown",
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (1 << 42, "4,096.0 GiB"),
    ],
)
def test_a_size_is_told_in_the_largest_unit_that_leaves_a_whole_one(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_reasons_follow_the_head_and_obey_nobody() -> None:
    sensor = dataclasses.replace(WELL, notes=["\x1b[2Jgone"])

    lines = text.lines(decode(encode(sensor, verdict(sensor))))

    assert lines[1] == r"  \x1b[2Jgone"
    assert text.verdict(json.loads(encode(sensor, verdict(sensor)))) == r"degraded: \x1b[2Jgone"


@pytest.mark.parametrize(
    "seconds,words", [(0.9, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")]
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


# -- the uploader's word ----------------------------------------------------------------------------------------------

SAID = {"op": "upload", **dataclasses.asdict(Upload(reachable=True, batches=3, trouble="none"))}


def test_an_uploaders_word_is_taken_whole() -> None:
    assert Upload.maybe(SAID) == Upload(reachable=True, batches=3, trouble="none")


@pytest.mark.parametrize(
    "change",
    [{"reachable": 1}, {"batches": -1}, {"batches": True}, {"batches": 1.5}, {"attempts": "1"}, {"trouble": None},
     {"spool_bytes": None}],
)  # fmt: skip
def test_an_uploaders_word_that_is_none_is_left_out(change: dict[str, object]) -> None:
    assert Upload.maybe({**SAID, **change}) is None


def test_what_an_operator_waits_for_is_told_apart_from_what_only_grows() -> None:
    said = Upload(reachable=True, trouble="a", spool_trouble="b")

    assert said.troubles == dataclasses.replace(said, batches=7, wire_bytes=9).troubles == (True, "a", "b")


def test_an_uploaders_text_is_cut_and_made_printable() -> None:
    said = Upload.maybe({**SAID, "trouble": "\x07" * 1000})

    assert said is not None
    assert said.trouble == legible(r"\x07" * 75) + "..."
    assert len(said.trouble) == 303


# -- Antigena ---------------------------------------------------------------------------------------------------------


def test_actions_in_force_and_refused_ones_are_shown_as_the_enforcer_reported_them() -> None:
    report = Report("enforce", "ab" * 16, 3, {"a1": {"resets": 4}}, {"a2": "it would end the sensor's upload"})
    sensor = dataclasses.replace(WELL, actions=actions(report.body.decode()))

    assert sensor.actions == [
        {"action": "a1", "mode": "enforce", "resets": 4},
        {"action": "a2", "refused": "it would end the sensor's upload"},
    ]
    assert text.lines(decode(encode(sensor, verdict(sensor))))[-2:] == [
        "antigena   action=a1 mode=enforce resets=4",
        "antigena   action=a2 refused=it would end the sensor's upload",
    ]


@pytest.mark.parametrize("report", [None, "", "[]", '{"mode": "sideways"}'])
def test_without_a_report_there_are_no_actions(report: str | None) -> None:
    assert actions(report) == []


# -- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_is_the_growth_over_the_last_ten_seconds() -> None:
    rates = Rates()
    assert rates.per_s() == ()
    for second in range(31):
        rates.add(float(second), 100 * second, 0 if second < 25 else 7 * (second - 25))

    assert rates.per_s() == (100.0, 3.5)


def test_samples_closer_than_a_tick_are_left_out() -> None:
    rates = Rates()
    for thirtieth in range(61):
        rates.add(thirtieth / 30, thirtieth)

    assert len(rates._samples) == 3
    assert rates.per_s()[0] == pytest.approx(30.0)
