"""Addresses, interfaces, and who gets which place among the hosts; no socket is opened."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models import LIMITS, SPEC, config_of, tensor_infos, tensor_shapes, write_llama
from tests.unit.test_hosts_links import wanted
from tplaunch.collectives.arena import round_up_to_page
from tplaunch.coordinator import messages as workers
from tplaunch.coordinator.options import OptionError
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.launcher.commands.join import JoinConfig, _capped
from tplaunch.launcher.commands.predict import predict
from tplaunch.launcher.declared import declared_values
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.fit import RankBytes, bytes_in, rank_needs
from tplaunch.launcher.fitting.memory_places import memory_places
from tplaunch.launcher.hosts.addresses import Address, is_any, is_loopback, parse_address, resolved
from tplaunch.launcher.hosts.descriptions import HostDevice
from tplaunch.launcher.hosts.finder import FolderFinder
from tplaunch.launcher.hosts.links import Interface, interface_of, interfaces
from tplaunch.launcher.hosts.members import MAX_APPLICANTS, Member, Members, choice_of, device_of
from tplaunch.launcher.hosts.messages import PROTOCOL_VERSION, Join
from tplaunch.launcher.hosts.placing import take_place
from tplaunch.launcher.model_options import run_config
from tplaunch.launcher.options import make_parser
from tplaunch.launcher.prediction_options import prediction_config
from tplaunch.launcher.words import parse_words
from tplaunch.worker.buffers.sums import slot_bytes

TENSORS = tensor_infos(tensor_shapes(SPEC))

DEVICE = HostDevice(
    0, "card", "ab", False, 8 << 30, 7 << 30, 1 << 30, False, ("q8",), True, "kind", "driver 1"
)
JOIN = Join(
    PROTOCOL_VERSION,
    workers.PROTOCOL_VERSION,
    "1.0",
    "beta",
    (DEVICE,),
    16 << 30,
    12 << 30,
    "",
    8,
    Interface("eth0", "10.0.0.2", 1000),
    0,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", Address("10.0.0.1", 5670)),
        ("head.lan:99", Address("head.lan", 99)),
        ("[::1]", Address("::1", 5670)),
        ("[fd00::2]:5671", Address("fd00::2", 5671)),
        ("[fe80::1%br-lan.5]:99", Address("fe80::1%br-lan.5", 99)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, "--listen") == address
    assert parse_address(str(address), "--listen") == address


@pytest.mark.parametrize(
    "text", ["", ":5670", "a:b", "a b", "tcp://a:1", "[fe80::1%]", "[::1]x", "1:2:3", "[fe80::1%'$x]"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="an address is needed"):
        parse_address(text, "--listen")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a:0", "--listen a:0: ports go from 1 to 65535"),
        ("[::1]:65536", r"--listen \[::1\]:65536: ports go from 1 to 65535"),
        ("::1", r"--listen ::1: an IPv6 address stands in brackets, as '\[::1\]'"),
        ("fe80::1%eth0", r"--listen fe80::1%eth0: an IPv6 address stands in brackets, as '\[fe80::1%eth0\]'"),
    ],
)
def test_what_is_missing_of_an_address(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{sentence}$"):
        parse_address(text, "--listen")


def test_names_become_numbers() -> None:
    assert resolved(Address("127.0.0.1", 1), "--listen") == Address("127.0.0.1", 1)
    with pytest.raises(UsageError, match="the address is not found"):
        resolved(Address("no..such", 1), "--listen")
    assert is_loopback("127.0.0.9") and is_loopback("::1") and not is_loopback("10.0.0.1")
    assert is_any("0.0.0.0") and is_any("::") and not is_any("10.0.0.1")


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        (Interface("eth0", "10.0.0.1", 1000, 1000), None),
        (Interface("eth0", "10.0.0.1"), None),
        (Interface("eth0", "10.0.0.1", 1000, 2500), "at 1 Gbit/s, but could at 2.5 Gbit/s"),
        (Interface("eth0", "10.0.0.1", 100, 1000), "at 100 Mbit/s, but could at 1 Gbit/s"),
        (Interface("eth0", "10.0.0.1", 100, 100, is_half_duplex=True), "half duplex"),
        (Interface("wlan0", "10.0.0.1", 400, 0, is_wireless=True), "Wi-Fi"),
        (Interface("lo", "127.0.0.1"), "loopback"),
    ],
)
def test_interfaces_that_are_a_bad_way(interface: Interface, words: str | None) -> None:
    warning = interface.warning()
    assert warning is None if words is None else warning is not None and words in warning


def test_this_machines_interfaces() -> None:
    known = interfaces()
    assert any(one.address == "127.0.0.1" for one in known)
    assert interface_of("127.0.0.1").name == "lo"
    assert interface_of("203.0.113.7", known).name == "an interface"


def applicant(members: Members, join: Join = JOIN, name: bytes = b"id") -> Member:
    member = Member(name, join)
    members.applicants[name] = member
    return member


def test_places_are_given_in_order_and_again() -> None:
    members = Members(3)
    first, second = applicant(members, name=b"1"), applicant(members, name=b"2")
    assert not members.admit(first) and not members.admit(second)
    assert [member.host for member in members.present] == [1, 2] and members.missing == []
    assert members.obstacle(JOIN) == "the run has all of its 3 hosts"
    first.lost = "has gone"
    assert members.missing == [1] and members[1] is first
    third = applicant(members, name=b"3")
    assert not members.admit(third) and third.host == 1 and members[1] is third
    assert members.find(b"1") is None and members.find(b"3") is third


def test_a_place_may_be_decided_elsewhere() -> None:
    members = Members(3)
    second = applicant(members, replace(JOIN, wanted_host=2))
    assert not members.admit(second) and second.host == 2
    assert "no place for a host 2" in members.obstacle(replace(JOIN, wanted_host=2))
    assert "no place for a host 7" in members.obstacle(replace(JOIN, wanted_host=7))
    assert not members.obstacle(JOIN)


def test_who_takes_a_place_has_the_devices_for_it() -> None:
    members = Members(2)
    members.needed = {1: 2}
    assert "1 devices, where the run needs more" in members.obstacle(JOIN)
    assert not members.obstacle(replace(JOIN, devices=(DEVICE, DEVICE)))


def test_other_versions_and_crowds_are_refused() -> None:
    members = Members(2)
    assert not members.fault(JOIN)
    for other in (replace(JOIN, version=99), replace(JOIN, worker_version=99)):
        assert "install the same release on every host" in members.fault(other)
    for number in range(MAX_APPLICANTS):
        applicant(members, name=bytes([number]))
    assert members.is_crowded and not members.fault(JOIN)


def test_a_device_keeps_what_the_plan_needs() -> None:
    choice = choice_of(DEVICE, 1, JOIN)
    assert device_of(choice) == DEVICE
    assert choice.title == "device 0 of beta (card)" and choice.host_memory == (16 << 30, 12 << 30, "")


def test_each_host_has_a_memory_of_its_own() -> None:
    cpu = replace(DEVICE, index=None, name="cpu", on_cpu=True, memory_bytes=0)
    far = [choice_of(device, 1, replace(JOIN, devices=(DEVICE, cpu))) for device in (DEVICE, cpu)]
    near = choice_of(DEVICE, 0, JOIN)
    choices = [replace(near, host=0), DeviceChoice(None, "numpy"), *far]
    places = memory_places(choices, {0: 4 << 30})
    assert [place.ranks for place in places] == [(0,), (1,), (2,), (3,)]
    assert [place.name for place in places[2:]] == ["device 0 of beta (card)", "the memory of beta"]
    assert places[0].capacity == 4 << 30 and places[2].capacity == 8 << 30  # a cap is of this host's devices
    assert places[3].capacity == 16 << 30 and places[3].usable == 9 << 30
    found = [RankBytes(1, 0, 0, partials=10 ** (rank + 1)) for rank in range(4)]
    assert bytes_in(places[1], found) == 1 + 110 and bytes_in(places[3], found) == 1 + 11000


def test_each_host_has_caps_of_its_own() -> None:
    cpu = replace(DEVICE, index=None, name="cpu", on_cpu=True, memory_bytes=0)
    capped = replace(DEVICE, max_bytes=2 << 30)
    join = replace(JOIN, devices=(capped, cpu), max_memory=3 << 30)
    near = replace(choice_of(DEVICE, 0, JOIN), host=0)
    far = [choice_of(device, 1, join) for device in join.devices]
    places = memory_places([near, *far], {0: 4 << 30})
    assert [place.capacity for place in places] == [4 << 30, 2 << 30, 3 << 30]
    assert all(place.is_capped for place in places)
    assert device_of(far[0]) == capped


def test_caps_of_a_joining_host_are_of_its_devices() -> None:
    options = parse_words(["join", "head", "--max-memory", "cpu=4GiB", "--devices", "cpu"])
    config = JoinConfig(head="head", **declared_values(JoinConfig, options))
    assert [choice.caps for choice in _capped(select_devices("numpy"), config.max_memory)] == [(0, 4 << 30)]
    with pytest.raises(UsageError, match="--max-memory 7: the ranks are on"):
        _capped(select_devices("numpy"), {7: 1})
    words = ("--nnodes=2", "--node-rank=1", "--head=10.0.0.1", "--max-memory=cpu=1GiB", "--demo")
    joins = take_place(options_of(*words), {})
    assert joins is not None and joins.max_memory == {None: 1 << 30}


def options_of(*words: str) -> argparse.Namespace:
    return parse_words(["run", *words, "-p", "x"])


@pytest.mark.parametrize(
    ("words", "environment", "num_hosts", "listen"),
    [
        ((), {}, 1, None),
        (("--hosts", "3"), {"SLURM_STEP_ID": "0", "SLURM_NODEID": "1", "SLURM_NNODES": "2"}, 3, None),
        (("--nnodes", "2", "--node-rank", "0"), {}, 2, "0.0.0.0:5670"),
        (("--nnodes", "2", "--node-rank", "0", "--head", "10.0.0.1:99"), {}, 2, "0.0.0.0:99"),
        (("--nnodes", "2", "--node-rank", "0", "--listen", "10.0.0.1"), {}, 2, "10.0.0.1"),
        ((), {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "77"}, 2, "0.0.0.0:77"),
    ],
)
def test_the_head_by_options_and_by_the_environment(
    words: Sequence[str], environment: Mapping[str, str], num_hosts: int, listen: str | None
) -> None:
    options = options_of(*words, "--demo")
    assert take_place(options, environment) is None
    assert (options.hosts, options.listen) == (num_hosts, listen)


def test_a_joiner_by_options_and_by_the_environment(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    options = options_of(
        "--nnodes=2", "--node-rank=1", "--head=10.0.0.1", "--key=k", "--devices=numpy", str(model)
    )
    joins = take_place(options, {})
    assert joins is not None and joins.head == "10.0.0.1:5670" and joins.node_rank == 1
    assert (joins.key, joins.devices, joins.models) == ("k", "numpy", (model,))
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "77"}
    joins = take_place(options_of(str(tmp_path / "elsewhere.gguf")), torchrun)
    assert joins is not None and joins.head == "a:77" and joins.models == ()
    with pytest.raises(UsageError, match="--hosts waits for others"):
        take_place(options_of("--hosts=2", "--nnodes=2", "--demo"), {})


def test_a_joiner_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks into the cache, and gets its own part from the head, which may have to download it first."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = ("run", "-hf", "org/m:Q8_0", "--nnodes=2", "--node-rank=1", "--head=10.0.0.1", "-p", "x")
    joins = take_place(parse_words(words), {})
    assert joins is not None and (joins.models, joins.model_folders) == ((), ())
    assert joins.wait_seconds > 3600
    blob = tmp_path / "models--org--m" / "blobs" / "ab12"  # as it lies there, whatever its commit is called
    blob.parent.mkdir(parents=True)
    write_llama(blob)
    joins = take_place(parse_words(words), {})
    assert joins is not None and joins.models == ()
    (found,) = FolderFinder(joins.models, joins.model_folders).find(wanted(blob))
    assert found.path == str(blob)


def test_a_plan_has_its_place_as_a_run_has(tmp_path: Path) -> None:
    plan = ("plan", "--shape", "tiny")
    slurm = {"SLURM_STEP_ID": "0", "SLURM_NODEID": "1", "SLURM_NNODES": "2", "SLURM_STEP_NODELIST": "a[1-2]"}
    joins = take_place(parse_words(plan), slurm)
    assert joins is not None and (joins.head, joins.node_rank, joins.models) == ("a1:5670", 1, ())
    head = parse_words([*plan, "--nnodes", "2", "--node-rank", "0"])
    assert take_place(head, {}) is None and head.hosts == 2
    asked = prediction_config(head)
    assert asked is not None and asked.joins
    described = [*plan, "--link", "1us,1Gbit"]
    assert take_place(parse_words(described), slurm) is None  # of hosts that need not be there
    with pytest.raises(UsageError, match="--link and --host-devices describe hosts"):
        take_place(parse_words([*described, "--nnodes", "2"]), {})


def test_options_of_hosts_go_together() -> None:
    for words in ({"listen": "10.0.0.1"}, {"insecure": True}):
        with pytest.raises(UsageError, match="goes with --hosts"):
            config_of(Path("model.gguf"), **words)
    with pytest.raises(UsageError, match="--hosts 0"):
        config_of(Path("model.gguf"), hosts=0)
    assert {"keygen", "join"} <= make_parser().commands.keys()


@pytest.mark.parametrize(
    ("collective", "hosts", "slots"),
    [
        ("shared-memory", (0, 0), (2, 0)),
        ("shared-memory", (0, 1), (2, 2)),
        ("shared-memory", (0, 0, 1), (4, 0, 2)),  # the hosts' two, and the summands of two ranks behind
        ("zmq", (0, 1), (2, 2)),
        ("zmq-ring", (0, 1), (1, 1)),
    ],
)
def test_partial_sums_lie_on_each_host(collective: str, hosts: Sequence[int], slots: Sequence[int]) -> None:
    plan = make_plan(SPEC, [1.0] * len(hosts))
    choices = [replace(choice_of(DEVICE, host, JOIN), imports_memory=True) for host in hosts]
    needs = rank_needs(SPEC, TENSORS, plan, choices, collective=collective)
    found = [needed.bytes(LIMITS).partials for needed in needs]
    slot = 2 * round_up_to_page(slot_bytes(SPEC, LIMITS))
    assert found == [count * slot for count in slots]


def test_only_the_head_of_others_may_have_no_devices() -> None:
    assert select_devices("none") == []
    with pytest.raises(UsageError, match="--devices none goes with --hosts N"):
        config_of(Path("model.gguf"), devices="none")
    with pytest.raises(UsageError, match="--devices none: a host joins to lend devices"):
        JoinConfig(head="head", devices="none")
    options = parse_words(["plan", "--demo", "--hosts=2", "--devices=none"])
    wanted = prediction_config(options)
    assert wanted is not None
    with pytest.raises(UsageError, match="--devices none: a plan measures this host, too"):
        predict(run_config(options, options.model), wanted, as_json=False)


@pytest.mark.parametrize("option", ["--key", "--model", "--model-dir"])
def test_an_empty_name_is_no_folder(option: str) -> None:
    """As of a variable that is not set."""
    options = parse_words(["join", "head", option, ""])
    with pytest.raises(UsageError, match=f"{option}.* is empty; "):
        JoinConfig(head="head", **declared_values(JoinConfig, options))


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan"), float("inf")])
def test_nobody_waits_so_long_for_a_head(seconds: float) -> None:
    with pytest.raises(OptionError, match=r"--wait .*: a positive number of seconds is needed"):
        JoinConfig(head="head", wait_seconds=seconds)
