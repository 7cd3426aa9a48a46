"""POSIX extended regular expressions, as `egrep` reads them, through libc's regcomp(3).

Python's `re` is no substitute: it takes `[[:xdigit:]]` without a word and matches something else, and it refuses
`a**`. Invariant: an `Ere` owns one compiled pattern, freed when nothing refers to the object any more.

Every pattern taken here means what GNU `grep -E` means by it; what the two libraries read differently is refused, since
a pattern that each tool reads in its own way is better refused at start than obeyed. Two classes are refused that grep
takes: what POSIX leaves undefined (XBD 9.4.3: a repetition with nothing before it, a brace that begins no interval;
grep takes it for ordinary characters, regcomp refuses it), and an anchor under a repetition (see `_anchor_repeated`).
tests/unit/test_ere.py holds us to both halves.
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from typing import Final

# The same values in glibc's and musl's <regex.h>.
_REG_EXTENDED: Final = 1
_REG_NOSUB: Final = 8
_REG_NOMATCH: Final = 1

# regex_t is 64 bytes in glibc on x86-64 and differs in musl; ctypes cannot ask, so 256 bytes hold either.
_Compiled = ctypes.c_uint64 * 32

_libc = ctypes.CDLL(None)
_regcomp = _libc.regcomp
_regcomp.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_regcomp.restype = ctypes.c_int
_regexec = _libc.regexec
_regexec.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int)
_regexec.restype = ctypes.c_int
_regerror = _libc.regerror
_regerror.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
_regerror.restype = ctypes.c_size_t
_regfree = _libc.regfree
_regfree.argtypes = (ctypes.c_void_p,)
_regfree.restype = None

_BACK_REFERENCE = re.compile(r"\\[1-9]")
# An escape, a bracket expression, an interval, or one character: enough to walk a pattern that regcomp has accepted.
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\[[.:=].*?[.:=]\]|[^]])*\]|\{[0-9]*,?[0-9]*\}|.", re.DOTALL)
_ANCHORS: Final = frozenset(("^", "$", "\\b", "\\B", "\\<", "\\>", "\\`", "\\'"))


class PatternError(ValueError):
    """libc does not take the pattern; the text is its reason."""


def _reason(code: int, compiled: ctypes.Array[ctypes.c_uint64]) -> str:
    text = ctypes.create_string_buffer(256)
    _regerror(code, compiled, text, len(text))
    return os.fsdecode(text.value)


def _anchor_repeated(pattern: str) -> bool:
    """True when `*`, `+` or an interval repeats something that holds an anchor or a word boundary.

    glibc copies the repeated part and loses the anchor's condition on the way: `^(^a)+$` matches `aa` there, and not
    in grep, whose own automaton decides. [6 of 460 generated patterns of this class were matched wrongly, none of
    11,671 others.] `?` copies nothing and is right.
    """
    groups = [False]  # for each open group, whether an anchor has been seen in it; the first is the whole pattern
    before = False  # whether what a repetition at this place would repeat holds an anchor
    for piece in _TOKEN.findall(pattern):
        if piece in {"*", "+"} or (piece[0] == "{" and len(piece) > 1):
            if before:
                return True
        elif piece == "(":
            groups.append(False)
            before = False
        elif piece == ")" and len(groups) > 1:
            before = groups.pop()
            groups[-1] |= before
        elif piece != "?":
            before = piece in _ANCHORS
            groups[-1] |= before
    return False


class Ere:
    """One compiled pattern. Raises PatternError when libc does not take it."""

    def __init__(self, pattern: str) -> None:
        if "\0" in pattern:  # C would read up to it and compile another pattern than the one given
            raise PatternError("NUL character in regular expression")
        # grep asks for the groups' positions when there is a back-reference, and glibc then prunes matches that it
        # otherwise lets stand: `h((t?)*)\1$` on `e.h` [11 of 3,946 generated patterns differed without this]. Asking
        # always would be wrong the other way: some patterns without back-references then take minutes.
        groups = pattern.count("(") + 1 if _BACK_REFERENCE.search(pattern) else 0
        compiled = _Compiled()
        code = _regcomp(compiled, os.fsencode(pattern), _REG_EXTENDED | (0 if groups else _REG_NOSUB))
        if code:
            # Nothing to free: after a failure POSIX leaves the content of regex_t undefined.
            raise PatternError(_reason(code, compiled))
        # A finalizer rather than __del__: it refers to the buffer, so that cannot go before what hangs on it has been
        # freed. Not at exit: the end of the process frees more cheaply.
        weakref.finalize(self, _regfree, compiled).atexit = False
        if _anchor_repeated(pattern):
            raise PatternError("Anchor or word boundary under a repetition, which libc and grep read differently")
        self.pattern: Final = pattern
        self._compiled = compiled
        self._groups = groups
        self._positions = (ctypes.c_int * (2 * groups))()  # regmatch_t is two ints (regoff_t) in glibc

    def __repr__(self) -> str:
        return f"Ere({self.pattern!r})"

    def search(self, name: str) -> bool:
        """True when the pattern matches anywhere in `name`. Raises MemoryError when libc runs out of it."""
        code = _regexec(self._compiled, os.fsencode(name), self._groups, self._positions, 0)
        if code not in {0, _REG_NOMATCH}:
            raise MemoryError(_reason(code, self._compiled))
        return bool(code == 0)
