"""Descriptors that one process hands to others: to those it means, and from the one they mean."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.unit.collectives_group import open_things
from tplaunch.collectives.descriptors import Caller, Door, HandoverError

# What another process does: it knocks, says so, and tells what it is given.
KNOCK = """
import os, socket, sys
caller = socket.socket(socket.AF_UNIX)
caller.settimeout(20)
caller.connect(chr(0) + sys.argv[1])
print("knocked", flush=True)
_, found, _, _ = socket.recv_fds(caller, 1, 1)
print(os.pread(found[0], 4, 0) if found else "nothing", flush=True)
"""


@pytest.fixture
def held() -> int:
    """A descriptor of memory, closed by the test that has it handed over."""
    descriptor = os.memfd_create("held")
    os.pwrite(descriptor, b"held", 0)
    return descriptor


def knock(door: Door) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-I", "-c", KNOCK, f"{door.number:05x}"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "knocked\n"
    return process


def test_those_that_are_meant_get_it_and_strangers_do_not(held: int) -> None:
    before = open_things()
    door = Door(2)
    stranger, own, other = knock(door), Caller(door.number, os.getpid()), knock(door)
    assert 0 < door.number < 2**20
    door.hand_over(held, [os.getpid(), other.pid])
    told = [process.communicate(timeout=30)[0] for process in (stranger, other)]
    assert told == ["nothing\n", "b'held'\n"]
    taken = own.take()
    assert os.pread(taken, 4, 0) == b"held" and not os.get_inheritable(taken)
    for descriptor in (taken, held):
        os.close(descriptor)
    own.close()
    door.close()
    assert open_things()[0] == before[0] - 1


def test_whoever_does_not_knock_is_not_waited_for(held: int) -> None:
    door = Door(2)
    caller = Caller(door.number, os.getpid())
    with pytest.raises(HandoverError, match="memory could not be handed over: Resource temporarily"):
        door.hand_over(held, [os.getpid(), os.getpid()])
    os.close(caller.take())
    late = Caller(door.number, os.getpid())
    with pytest.raises(HandoverError, match="memory was not handed over: Resource temporarily"):
        late.take()
    caller.close()
    late.close()
    door.close()
    with pytest.raises(HandoverError, match="the rank that hands memory over can't be reached: Connection"):
        Caller(door.number, os.getpid())
    os.close(held)


def test_a_crowd_of_strangers_ends_it(held: int) -> None:
    door = Door(1)
    callers = [Caller(door.number, os.getpid()) for _ in range(18)]
    with pytest.raises(HandoverError, match="memory was not handed over: 1 ranks were kept away"):
        door.hand_over(held, [1])
    with pytest.raises(HandoverError, match="no memory came from the rank"):
        callers[0].take()
    door.close()
    for caller in callers:
        caller.close()
    os.close(held)


def test_a_door_of_another_process_is_not_trusted() -> None:
    before = open_things()
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind("")
        impostor.listen()
        number = int(impostor.getsockname()[1:], 16)
        with pytest.raises(HandoverError, match="memory is handed over by another process than 1"):
            Caller(number, 1)
        impostor.accept()[0].close()
        caller = Caller(number, os.getpid())
        end, _ = impostor.accept()
        with end:
            end.send(b"?")  # no descriptor with it
            with pytest.raises(HandoverError, match="no memory came from the rank"):
                caller.take()
        caller.close()
    assert open_things() == before
