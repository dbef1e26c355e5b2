"""`tplaunch plan` with hosts that are not here: tokens per second of every way to run the model on them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.lines import shown, wrapped
from tplaunch.launcher.model import open_model
from tplaunch.launcher.predicting.described import DescribedDevice
from tplaunch.launcher.predicting.foresee import HostDevice, Wanted, foresee
from tplaunch.launcher.predicting.links import Link
from tplaunch.launcher.predicting.report import prediction_json, prediction_text

HERE = "here"
MAX_PROMPT = 1 << 20


@dataclass(frozen=True)
class PredictionConfig:
    """The hosts that a prediction is for, as the user says it."""

    num_hosts: int | None
    link: Link | None
    described: tuple[tuple[DescribedDevice, ...] | None, ...]  # by host, or one for all; None: this machine's
    prompt_tokens: int = 512

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
    model = open_model(config, needs_devices=False)
    hosts: list[tuple[HostDevice, ...]] = []
    here: tuple[HostDevice, ...] | None = None
    for devices in asked.by_host:
        if devices is None:
            here = here or tuple(select_devices(config.devices))
        hosts.append(here if devices is None and here is not None else devices or ())
    pipeline = config.num_stages if config.num_stages > 1 else None
    wanted = Wanted(tuple(hosts), asked.link, pipeline, config.wire, asked.prompt_tokens)
    found = foresee(config, model, wanted)
    if as_json:
        print(json.dumps({"model": config.model.name, **prediction_json(found, wanted.link)}, indent=2))
        return 0
    spec = model.spec
    print(wrapped(f"{shown(config.model.name)}: {spec.architecture}, {spec.num_layers} layers"))
    print(prediction_text(found, wanted.link, config.verbose))
    return 0
