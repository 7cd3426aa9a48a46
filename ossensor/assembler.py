"""Classic BPF programs out of lines with labels. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

# linux/bpf_common.h: class, size and mode of an instruction. ABS loads from k, IND from X + k; MSH puts four times the
# low half of the byte at k into X: an IPv4 header's length. A packet that ends before what is loaded is refused.
LD_ABS, LDH_ABS, LDB_ABS, LDH_IND, LDB_IND = 0x20, 0x28, 0x30, 0x48, 0x50
LD_MEM, LD_IMM, LDX_IMM, LDX_MSH, ST = 0x60, 0x00, 0x01, 0xB1, 0x02
AND, RET = 0x54, 0x06
JA, JEQ, JGE, JSET = 0x05, 0x15, 0x35, 0x45

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
_INSTRUCTION: Final = struct.Struct("HBBI")  # struct sock_filter
_FARTHEST: Final = 255  # jumps that depend on a comparison have eight bits


class Line(NamedTuple):
    """One instruction. Without a label, a jump goes to the next line; `then` of JA is where it goes always."""

    code: int
    k: int = 0
    then: str = ""
    otherwise: str = ""


# A label by itself marks the line after it.
Text: TypeAlias = list[Line | str]


def length(text: Iterable[Line | str]) -> int:
    """How many instructions it makes."""
    return sum(isinstance(line, Line) for line in text)


def assembled(text: Text) -> bytes:
    """The program, an array of struct sock_filter. Jumps go forward only; KeyError for a label that is not there."""
    places: dict[str, int] = {}
    lines: list[Line] = []
    for line in text:
        if isinstance(line, str):
            if line in places:
                raise ValueError(f"two lines are called {line}")
            places[line] = len(lines)
        else:
            lines.append(line)
    program = bytearray()
    for place, line in enumerate(lines):
        then, otherwise = (places[label] - place - 1 if label else 0 for label in (line.then, line.otherwise))
        if line.code == JA:
            program += _INSTRUCTION.pack(JA, 0, 0, then)
        else:
            program += _INSTRUCTION.pack(line.code, _near(then), _near(otherwise), line.k)
    return bytes(program)


def _near(distance: int) -> int:
    if not 0 <= distance <= _FARTHEST:
        raise ValueError(f"a jump over {distance} instructions")
    return distance
