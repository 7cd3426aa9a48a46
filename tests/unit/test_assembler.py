"""Programs out of lines with labels, and texts that are none."""

from __future__ import annotations

import struct

import pytest

from ossensor.assembler import JA, JEQ, LD_ABS, RET, Line, Text, assembled, length


def test_labels_become_distances_and_count_for_nothing() -> None:
    text: Text = [
        Line(LD_ABS, 12),
        Line(JEQ, 0x800, "yes", "no"),
        "no",
        Line(RET, 0),
        Line(JA, then="yes"),
        Line(RET, 1),
        "yes",
        Line(RET, 2),
    ]

    assert list(struct.iter_unpack("HBBI", assembled(text))) == [
        (LD_ABS, 0, 0, 12),
        (JEQ, 3, 0, 0x800),
        (RET, 0, 0, 0),
        (JA, 0, 0, 1),
        (RET, 0, 0, 1),
        (RET, 0, 0, 2),
    ]
    assert length(text) == 6


@pytest.mark.parametrize("far,between", [("yes", 255), ("no", 255)])
def test_a_comparison_reaches_as_far_as_eight_bits_say_and_no_farther(far: str, between: int) -> None:
    labels = {"yes": ("there", ""), "no": ("", "there")}[far]

    def over(lines: int) -> Text:
        return [Line(JEQ, 1, *labels), *[Line(RET)] * lines, "there", Line(RET, 1)]

    jump = struct.unpack_from("HBBI", assembled(over(between)))
    assert jump == {"yes": (JEQ, between, 0, 1), "no": (JEQ, 0, between, 1)}[far]
    with pytest.raises(ValueError, match=f"a jump over {between + 1} instructions"):
        assembled(over(between + 1))


def test_no_jump_goes_back() -> None:
    with pytest.raises(ValueError, match="a jump over -1 instructions"):
        assembled(["back", Line(JEQ, 1, "back", "")])


def test_a_label_is_given_once_and_is_there() -> None:
    with pytest.raises(ValueError, match="two lines are called twice"):
        assembled(["twice", Line(RET), "twice", Line(RET)])
    with pytest.raises(KeyError, match="nowhere"):
        assembled([Line(JA, then="nowhere")])
