"""Asks hosts, joined or fake, what a prediction needs: steps on their devices, and links by echoes."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_hosts_head import WAITS, World, expect, worlds  # noqa: F401
from tests.unit.test_prediction_options import quick  # noqa: F401
from tests.unit.test_step_times import job
from tplaunch.coordinator.gguf.origin import FilePart, Origin
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.cli import main
from tplaunch.launcher.commands import predict
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.hosts import echoes, head, telling
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.echoes import Echo, LinkMeter, send_back
from tplaunch.launcher.hosts.head_link import HeadLink
from tplaunch.launcher.hosts.measurements import AskEcho, AskSpeed, AskSteps, DeviceSpeed, StepsTimed
from tplaunch.launcher.hosts.messages import FromJoiner, Leave
from tplaunch.launcher.hosts.opening import Hosts
from tplaunch.launcher.hosts.telling import Teller
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting.links import Link
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

JOB = job("tiny", 2)
TAKEN = tuple(StepSeconds(0.001 * (place + 1), 0.5) for place in range(len(JOB.points)))
SECRET = bytes(range(32))
HEAD = Address("127.0.0.1", 1)


class Asked(threading.Thread):
    """The head's question, asked beside the test: `result` has the answer or the error's sentence."""

    def __init__(self, world: World, jobs: Sequence[StepsJob] = (JOB,), seconds: float = WAITS) -> None:
        super().__init__(daemon=True)
        self._head, self._jobs, self._seconds = world.head, jobs, seconds
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._head.ask_steps(1, [0] * len(self._jobs), self._jobs, self._seconds)
        except RunError as error:
            self.result = str(error)

    def answered(self, link: HeadLink, *answers: Callable[[int], StepsTimed]) -> object:
        """Lets the host answer, given the wish's number; returns the result."""
        wish = expect(link, AskSteps)
        for answer in answers:
            link.send(answer(wish.number))
        self.join(WAITS)
        return self.result


def test_a_host_times_the_steps_that_it_is_asked_for(
    worlds: Callable[..., World],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = worlds(2)
    link = world.join()
    world.members()
    late = lambda number: StepsTimed(number - 1, ((), ()))  # noqa: E731
    found = Asked(world, (JOB, JOB)).answered(link, late, lambda number: StepsTimed(number, (TAKEN, TAKEN)))
    assert found == (TAKEN, TAKEN)
    failed = Asked(world).answered(link, lambda number: StepsTimed(number, (), "its driver has gone"))
    assert failed == "host 1 (beta): its driver has gone"
    other = Asked(world).answered(link, lambda number: StepsTimed(number, (TAKEN[1:],)))
    assert other == "host 1 (beta) has timed other steps than it was asked for"
    mute = Asked(world, seconds=0.0).answered(link)
    assert mute == "host 1 (beta) should time steps on its devices, and did not within 0 s"
    going = Asked(world)
    expect(link, AskSteps)
    link.send(Leave("it was told to"))
    going.join(WAITS)
    assert going.result == ("host 1 (beta) should time steps on its devices, and has left: it was told to")
    monkeypatch.setattr(head, "MAX_FRAME_BYTES", 1000)
    large = Asked(world)
    large.join(WAITS)
    assert large.result == "host 1 (beta) can't be asked to time steps of so many layers and ranks"


def test_what_can_not_be_asked_or_told() -> None:
    parts = (FilePart("model.gguf", 24),)
    with pytest.raises(ValueError, match="a model of files"):
        AskSteps(1, (0,), (replace(JOB, load=replace(JOB.load, origin=Origin(parts=parts))),))
    with pytest.raises(ValueError, match="1 jobs for 2 devices"):
        AskSteps(1, (0, 1), (JOB,))
    with pytest.raises(ValueError, match="timed for 1000"):
        AskSteps(1, (0,), (replace(JOB, seconds=1000.0),))
    with pytest.raises(ValueError, match="0 steps"):
        AskSteps(1, (0,), (replace(JOB, points=()),))
    with pytest.raises(ValueError, match="a step of nan s"):
        StepsTimed(1, ((StepSeconds(float("nan"), 1.0),),))
    with pytest.raises(ValueError, match="the port 0"):
        AskEcho(0, bytes(16))


def test_a_joiner_measures_in_a_thread_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: queue.SimpleQueue[FromJoiner] = queue.SimpleQueue()
    devices = [DeviceChoice(0, "a"), DeviceChoice(1, "b")]
    teller = Teller(HEAD, None, devices, False, sent.put)
    seen: list[Sequence[DeviceChoice]] = []

    def timed(config: object, choices: Sequence[DeviceChoice], jobs: object) -> list[list[StepSeconds]]:
        seen.append(choices)
        return [[StepSeconds(1.0, 1.5)]]

    monkeypatch.setattr(telling, "time_steps", timed)
    teller.tell(AskSteps(7, (1,), (JOB,)))
    assert sent.get(timeout=WAITS) == StepsTimed(7, ((StepSeconds(1.0, 1.0),),)) and seen == [[devices[1]]]
    teller.tell(AskSteps(8, (2,), (JOB,)))  # of which it has none
    answer = sent.get(timeout=WAITS)
    assert isinstance(answer, StepsTimed) and answer.number == 8 and answer.fault
    teller.close()
    teller._tell(StepsTimed(9, ()))
    assert sent.empty()


def test_a_joiner_measures_kernels_for_processors_on_the_cores_that_they_will_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its cards leave those; the head divides what two such ranks share."""
    sent: queue.SimpleQueue[FromJoiner] = queue.SimpleQueue()
    cpu = DeviceChoice(None, "cpu")
    devices = [DeviceChoice(0, "a card", on_cpu=False), cpu, cpu, DeviceChoice(1, "llvmpipe")]
    monkeypatch.setattr(telling, "usable_cores", lambda: list(range(8)))
    monkeypatch.setattr(telling, "device_speed", lambda _, choice: 1.0 + len(choice.own_cores))
    teller = Teller(HEAD, None, devices, False, sent.put)
    for device, speed in enumerate([1.0, 7.0, 7.0, 1.0]):
        teller.tell(AskSpeed(device, RankOptions()))
        assert sent.get(timeout=WAITS) == DeviceSpeed(device, speed)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_link_is_measured_by_what_comes_back(secret: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echoes, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(echoes, "BURST_SECONDS", 0.01)
    teller = Teller(HEAD, secret, [], False, lambda _: None)
    with LinkMeter("127.0.0.1", secret) as meter:
        here = meter.nowhere()
        echo = meter.measure(lambda token: teller.tell(AskEcho(meter.port, token)), "host 1")
    for found in (here, echo):
        assert 0 < found.round_trip < 1 and 1e5 < found.bytes_per_second < 1e11


def test_who_sends_nothing_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echoes, "SILENCE_SECONDS", 0.3)
    with LinkMeter("127.0.0.1", SECRET) as meter:

        def dial_by_another_name(token: bytes) -> None:
            send_back(Address("127.0.0.1", meter.port), SECRET, bytes(16))

        with pytest.raises(
            RunError, match=r"^host 1 should send messages back, .* and did not within 0.3 s$"
        ):
            meter.measure(dial_by_another_name, "host 1")


def test_a_link_is_what_the_processes_are_not() -> None:
    nowhere = Echo(100e-6, 1e9)
    slow = Echo(300e-6, 1e8).link(nowhere, 1.25e9)
    assert slow.latency == pytest.approx(100e-6) and slow.bytes_per_second == 1e8
    assert Echo(90e-6, 9e8).link(nowhere, 1.25e9) == Link(0.0, 1.25e9)  # the processes were the limit
    assert Echo(90e-6, 9e8).link(nowhere) == Link(0.0, 9e8)


class FakeHosts(Hosts):
    """Two further hosts: one with two devices that take twice as long, and one that is far away."""

    def __init__(self, config: RunConfig, model: Model) -> None:
        assert not model.origin.parts, "no host needs the model"
        places = ((0, "here"), (1, "beta"), (1, "beta"), (2, "gamma"))
        super().__init__([DeviceChoice(None, "numpy", host=host, host_name=name) for host, name in places])
        for choice in self.choices:
            object.__setattr__(choice, "host_memory", (1 << 40, 1 << 40, ""))
        self.asked: list[tuple[int, int]] = []

    def time_steps(
        self, config: object, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
    ) -> Sequence[Sequence[StepSeconds]]:
        (host,) = {choice.host for choice in choices}
        self.asked.append((host, len(choices)))
        slow = 2.0 if host == 1 else 1.0
        return [
            [StepSeconds(slow * 1e-3 * len(one.load.spec.layers), 1.0) for _ in one.points] for one in jobs
        ]

    def links(self) -> dict[int, Link]:
        return {1: Link(1e-4, 1e8), 2: Link(0.02, 1e9)}


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[FakeHosts]:
    made: list[FakeHosts] = []

    @contextmanager
    def opened(config: RunConfig, model: Model) -> Iterator[Hosts]:
        made.append(FakeHosts(config, model))
        yield made[-1]

    monkeypatch.setattr(predict, "open_hosts", opened)
    return made


PLAN = (
    "plan",
    "--shape",
    "tiny",
    "--devices",
    "numpy",
    "--hosts",
    "3",
    "--context",
    "64",
    "--max-memory",
    "cpu=64GiB",
)


@pytest.mark.usefixtures("quick")
def test_plan_predicts_hosts_that_have_joined(
    joined: list[FakeHosts], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [(host["name"], host["devices"]) for host in found["hosts"]] == [
        ("here", ["numpy"]),
        ("beta", ["numpy", "numpy"]),
        ("gamma", ["numpy"]),
    ]
    assert found["hosts"][2]["link"] == {"latency": 0.02, "bytes_per_second": 1e9}
    assert found["link"] == {"latency": 0.02, "bytes_per_second": 1e8}  # between the other two: the worst
    ways = {way["way"]: way for way in found["ways"]}
    assert set(ways) == {"1 device", "tensor 4", "pipeline 2 x tensor 2"}  # of two layers
    assert ways["tensor 4"]["hosts"] == [0, 1, 1, 2]
    assert ways["tensor 4"]["decode"]["limit"] == "link latency"
    assert {host for host, _ in joined[0].asked} == {0, 1, 2} and (1, 2) in joined[0].asked
    one, tensor = (ways[way]["decode"]["seconds"]["device"] for way in ("1 device", "tensor 4"))
    assert tensor == pytest.approx(2 * one)  # the slowest host's, as its own devices were timed


@pytest.mark.usefixtures("quick", "joined")
def test_plan_names_hosts_and_their_links_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(list(PLAN)) == 0
    text = capsys.readouterr().out
    assert "host 0: here (numpy), this host\n" in text
    assert "host 1: beta (numpy, numpy), measured link: 100 us, 0.8 Gbit/s\n" in text
    assert "Predicted tokens/s on 3 hosts, 20000 us, 0.8 Gbit/s" in text
    assert max(map(len, text.splitlines())) <= 80
