"""What kind of link an interface is, and what of names that are none."""

from __future__ import annotations

import os
import socket

import pytest

from ossensor.capture.bpf import bound_index
from ossensor.capture.hardware import hardware_type


def test_loopback_is_of_a_kind_of_its_own() -> None:
    assert hardware_type("lo") == 772


@pytest.mark.parametrize("name, why", [("nosuch0", "No such device"), (os.fsdecode(b"e\xff"), "its name is not UTF-8")])
def test_what_is_gone_or_cannot_be_opened_by_its_name_is_an_error_that_may_pass(name: str, why: str) -> None:
    with pytest.raises(OSError, match=why):
        hardware_type(name)


def test_a_socket_on_an_interface_whose_name_is_not_utf_8_is_bound_to_none_that_can_be_told() -> None:
    class Renamed(socket.socket):
        def getsockname(self) -> str:
            return b"e\xff".decode()  # as CPython does with what the kernel calls it

    with Renamed() as sock:
        assert bound_index(sock) is None
