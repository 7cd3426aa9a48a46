"""Every command of the documents is run by a test, or is listed with the reason why not; each is one that there is."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from documented import BLOCK, LANGUAGES, NOT_RUN, PAGES, ROOT, commands, to_run

from ossensor.cli import make_parser

# Where a shell's command ends, and another one, or a file, begins.
_ENDS = {"|", "||", "&&", ";", "<", ">", ">>", "&"}
_SIGNED = {"ossensor key id v1"}  # no command: what a key is named by
_ASSIGNED = re.compile(r"([A-Z_]+)=(?:\"([^\"]*)\"|(\S*))")


def _expanded(page: str) -> list[str]:
    """The page's commands, with what the page itself assigns in place of `$NAME`."""
    names: dict[str, str] = {}
    expanded = []
    for command in commands(PAGES[page]):
        if assigned := _ASSIGNED.fullmatch(command):
            names[assigned[1]] = assigned[2] or assigned[3]
        expanded.append(re.sub(r"\$([A-Z_]+)", lambda found: names.get(found[1], found[0]), command))
    return expanded


def _ours(command: str) -> Iterator[list[str]]:
    """The argument list of each call of `ossensor` in a command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    for at, word in enumerate(words):
        before = words[:at]
        begins = not before or before[-1] in _ENDS or all(_ASSIGNED.fullmatch(name) for name in before)
        if begins and word.rpartition("/")[2] == "ossensor":
            ends = next((n for n in range(at, len(words)) if words[n] in _ENDS), len(words))
            yield words[at + 1 : ends]


OURS = [(page, argv) for page in PAGES for command in _expanded(page) for argv in _ours(command)]


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:  # argparse has no other way to list its commands
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _parsers(one)


def test_every_block_says_what_it_is() -> None:
    blocks = {page: [language for _, language, _ in BLOCK.findall(text)] for page, text in PAGES.items()}
    fences = {page: len(re.findall(r"^ *```", text, re.MULTILINE)) for page, text in PAGES.items()}

    assert {page: set(languages) - LANGUAGES for page, languages in blocks.items() if set(languages) - LANGUAGES} == {}
    assert fences == {page: 2 * len(languages) for page, languages in blocks.items()}


def test_no_command_hides_in_an_indented_block() -> None:
    programs = r"^ {4,}(?:sudo |[A-Z_]+=\S+ )*(ossensor|make|podman|aws|openssl|systemctl|pytest|tshark|curl)\b.*"
    prose = {page: BLOCK.sub("", text) for page, text in PAGES.items()}

    assert {page: found for page, text in prose.items() if (found := re.findall(programs, text, re.MULTILINE))} == {}


def test_what_is_not_run_is_still_there_and_has_a_reason_that_names_what_exists() -> None:
    gone = {page: set(listed) - set(commands(PAGES[page])) for page, listed in NOT_RUN.items()}
    reasons = {reason for listed in NOT_RUN.values() for reason in listed.values()}
    files = {name for reason in reasons for name in re.findall(r"tests/[\w/.]+", reason)}

    assert {page: stale for page, stale in gone.items() if stale} == {}
    assert [name for name in sorted(files) if not (ROOT / name.rstrip(".")).exists()] == []
    assert all(reasons)


def test_most_of_them_are_run() -> None:
    run, all_of_them = (sum(map(len, map(of, PAGES))) for of in (to_run, lambda page: commands(PAGES[page])))

    print(f"{run} of {all_of_them} commands are run by tests/netns/test_documented_commands.py")
    assert run > all_of_them / 2


@pytest.mark.parametrize("page, argv", OURS, ids=[" ".join(argv)[:60] for _, argv in OURS])
def test_a_command_of_ours_is_understood(page: str, argv: list[str]) -> None:
    assert page in PAGES
    make_parser().parse_args(argv)


def test_an_option_that_a_document_names_beside_a_command_is_one_of_it() -> None:
    known = {parser.prog: set(parser._option_string_actions) for parser in _parsers(make_parser())}
    unknown = []
    for page, text in PAGES.items():
        for found in re.findall(r"`(ossensor\s+[a-z][^`]*)`", BLOCK.sub("", text)):
            code = " ".join(words := found.split())
            prog = max((p for p in known if re.match(rf"{p}\b", code)), key=len)
            options = {word.strip("[],.").partition("=")[0] for word in words if word.strip("[").startswith("--")}
            unknown += [(page, code, option) for option in options - known[prog]]
            if prog == "ossensor" and code not in _SIGNED:
                unknown.append((page, code, "no such command"))

    assert unknown == []


def test_a_target_of_make_that_a_document_names_is_one() -> None:
    call = re.compile(r"(?:`|^|sudo )make ([a-z][a-z-]*)", re.MULTILINE)
    named = {name for text in PAGES.values() for name in call.findall(text)}
    done = subprocess.run(["make", "-n", *named], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert {"run", "test", "install", "bench", "containers"} <= named
