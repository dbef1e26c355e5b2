"""`tplaunch plan` with several hosts, joined or not: tokens per second of every way to run the model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.device_choice import NONE
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.opening import Hosts, open_hosts
from tplaunch.launcher.lines import say, shown, wrapped
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.predicting.described import DescribedDevice
from tplaunch.launcher.predicting.foresee import Foreseen, foresee
from tplaunch.launcher.predicting.links import Link, worst
from tplaunch.launcher.predicting.report import (
    hosts_json,
    hosts_text,
    prediction_json,
    prediction_text,
)
from tplaunch.launcher.predicting.wanted import HostDevice, Wanted

HERE = "here"
MAX_PROMPT = 1 << 20


@dataclass(frozen=True)
class PredictionConfig:
    """The hosts that a prediction is for, as the user says it."""

    num_hosts: int | None
    link: Link | None
    described: tuple[tuple[DescribedDevice, ...] | None, ...]  # by host, or one for all; None: this machine's
    prompt_tokens: int = 512
    anew: bool = False  # measure what is known from before, too

    def __post_init__(self) -> None:
        count = self.num_hosts
        if count is not None and not 1 <= count <= MAX_RANKS:
            raise UsageError(f"--hosts {count}: 1 to {MAX_RANKS} are possible")
        if len(self.described) > 1 and count not in (None, len(self.described)):
            raise UsageError(
                f"--hosts {count}: --host-devices stands {len(self.described)} times; it goes once for all"
                " hosts, or once for each"
            )
        if not 1 <= self.prompt_tokens <= MAX_PROMPT:
            raise UsageError(f"--prompt-tokens {self.prompt_tokens}: 1 to {MAX_PROMPT} are possible")

    @property
    def joins(self) -> bool:
        """Tells whether the hosts are there and join; otherwise they are said to be linked, or described."""
        return self.host_count > 1 and self.link is None and not self.described

    @property
    def host_count(self) -> int:
        """The number of hosts: as said, or as described, or two where there is a link."""
        if self.num_hosts is not None:
            return self.num_hosts
        if len(self.described) > 1:
            return len(self.described)
        return 1 if self.link is None else 2

    @property
    def by_host(self) -> tuple[tuple[DescribedDevice, ...] | None, ...]:
        """The devices of each host; None for this machine's."""
        if len(self.described) > 1:
            return self.described
        return (self.described or (None,)) * self.host_count


def predict(config: RunConfig, asked: PredictionConfig, as_json: bool) -> int:
    """Prints the prediction. Raises UsageError, PlanError and RunError."""
    if config.devices == NONE:
        raise UsageError(f"--devices {NONE}: a plan measures this host, too; ask on one that has devices")
    model = open_model(config, needs_devices=False)
    pipeline = config.num_stages if config.num_stages > 1 else None
    if asked.joins:
        # Weights are made up where steps are timed: no host needs the model.
        with open_hosts(config, replace(model, origin=Origin())) as hosts:
            wanted = _joined(config, asked, hosts, pipeline)
            found = foresee(config, model, wanted, hosts.time_steps)
    else:
        wanted = Wanted(
            *(_devices(config, asked), asked.link, pipeline, config.wire, asked.prompt_tokens),
            anew=asked.anew,
        )
        found = foresee(config, model, wanted)
    _show(config, model, wanted, found, as_json)
    return 0


def _devices(config: RunConfig, asked: PredictionConfig) -> tuple[tuple[HostDevice, ...], ...]:
    """The devices of each host, this one's for those that are like it."""
    here: tuple[HostDevice, ...] | None = None
    found: list[tuple[HostDevice, ...]] = []
    for devices in asked.by_host:
        if devices is None:
            here = here or tuple(select_devices(config.devices))
        found.append(here if devices is None and here is not None else devices or ())
    return tuple(found)


def _joined(config: RunConfig, asked: PredictionConfig, hosts: Hosts, pipeline: int | None) -> Wanted:
    """The hosts that have joined, and their links, which are measured now."""
    devices: dict[int, list[HostDevice]] = {}
    for choice in hosts.choices:
        devices.setdefault(choice.host, []).append(choice)
    names = {choice.host: choice.host_name for choice in hosts.choices}
    say("measuring links and devices")
    links = hosts.links()
    return Wanted(
        tuple(tuple(devices[host]) for host in sorted(devices)),
        worst(links.values()),
        pipeline,
        config.wire,
        asked.prompt_tokens,
        {(HEAD, host): link for host, link in links.items()},
        tuple(names[host] for host in sorted(names)),
        asked.anew,
    )


def _show(config: RunConfig, model: Model, wanted: Wanted, found: Foreseen, as_json: bool) -> None:
    if as_json:
        hosts = {"hosts": hosts_json(wanted)} if wanted.names else {}
        content = {"model": config.model.name, **hosts, **prediction_json(found, wanted.link)}
        print(json.dumps(content, indent=2))
        return
    spec = model.spec
    print(wrapped(f"{shown(config.model.name)}: {spec.architecture}, {spec.num_layers} layers"))
    if wanted.names:
        print(hosts_text(wanted))
    print(prediction_text(found, wanted.link, config.verbose))
