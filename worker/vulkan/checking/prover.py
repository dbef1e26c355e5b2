"""Finds out at a device's start which variants of its kernels are right, by running each against NumPy.

What was found is kept with the measurements of the device, driver and kernels, for all later starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tplaunch.worker.checking.table import SmallOp
from tplaunch.worker.device import CHECK_HELP, DeviceError, KernelRefused
from tplaunch.worker.measuring.measurements import Measurements
from tplaunch.worker.vulkan.checking.checker import Checker
from tplaunch.worker.vulkan.dispatch.questions import Asked
from tplaunch.worker.vulkan.variants import Variant

# Of a start, after which variants beyond a right one are left to the next start. A card has so long for these
# alone, and needs a part of it: what is not proved is not timed, and a first start would go by guesses.
START_SECONDS, START_SECONDS_ON_CPU = 30.0, 1.5

log = logging.getLogger("worker")


@dataclass
class Proof:
    """The variants of each family that are right, and remarks for the user on the others."""

    right: dict[str, list[str]] = field(default_factory=dict)  # families -> suffixes
    notes: list[str] = field(default_factory=list)


@dataclass
class Group:
    """The ops that are right or wrong together: of a kernel without a choice, or of a whole family."""

    name: str
    is_family: bool
    variants: tuple[Variant, ...]
    ops: list[tuple[SmallOp, Asked]] = field(default_factory=list)

    def kernels(self, variant: Variant) -> list[str]:
        """The kernels that run its ops by a variant."""
        return [asked.kernel_of(variant) for _, asked in self.ops]


class Prover:
    """Proves the kernels of one device, with a checker for it."""

    def __init__(self, checker: Checker, measurements: Measurements) -> None:
        self._checker, self._measurements = checker, measurements

    def prove(self, ops: Iterable[SmallOp], seconds: float | None = None) -> Proof:
        """Looks for a right variant of every kernel, and for others where that took less than `seconds`.

        By default that is as long as a start may take. A variant that was not checked does not count as
        right. Raises DeviceError where none is.
        """
        proof, groups = Proof(), self._grouped(ops)
        if seconds is None:
            seconds = START_SECONDS_ON_CPU if self._checker.on_cpu else START_SECONDS
        try:
            if all(self._is_known(group, variant) for group in groups for variant in group.variants):
                self._look_for_all(groups, proof, seconds)
            else:
                had_found = self._has_found(groups)
                with self._measurements.locked():  # ranks on one device go by the same outcome
                    is_told = not had_found and self._has_found(groups)
                    self._look_for_all(groups, proof, 0.0 if is_told else seconds)
        finally:
            self._measurements.save()
            self._checker.close()
        log.info("%d kinds of kernels are right", len(groups))
        return proof

    def _look_for_all(self, groups: list[Group], proof: Proof, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        unproved = [group for group in groups if not self._is_known_of(group)]
        self._checker.compile(kernel for group in unproved for kernel in group.kernels(group.variants[0]))
        for group in groups:
            self._find_one(group, proof)
        if seconds > 0 and not self._checker.on_cpu:  # whose compiler would leave no time for checks
            deadline = time.monotonic() + seconds
            self._checker.compile(self._unknown_kernels(groups), seconds)
        for group in groups:
            self._find_others(group, proof, deadline)
        self._measurements.save()  # before the next rank looks

    def _grouped(self, ops: Iterable[SmallOp]) -> list[Group]:
        groups: dict[str, Group] = {}
        for op in ops:
            asked = self._checker.ask(op)
            name = asked.family or asked.kernel
            if name not in groups:
                groups[name] = Group(name, asked.family is not None, self._checker.variants(asked))
            groups[name].ops.append((op, asked))
        return list(groups.values())

    def _find_one(self, group: Group, proof: Proof) -> None:
        """The first right variant, in the order of preference. Several may be ways to run one kernel."""
        wrong: dict[str, None] = {}
        for variant in group.variants:
            kernel = self._wrong_kernel(group, variant)
            if kernel is None:
                proof.notes += [self._not_used(one, group, variant) for one in wrong]
                if group.is_family:
                    proof.right[group.name] = [variant.suffix]
                return
            wrong[kernel] = None
        first, *rest = wrong
        others = "".join(f"; {kernel} {self._fault(kernel)}" for kernel in rest)
        raise DeviceError(f"{self._checker.blame(first)} {self._fault(first)}{others}; {CHECK_HELP}")

    def _find_others(self, group: Group, proof: Proof, deadline: float) -> None:
        """Finds the other variants that are right, as far as the time goes.

        The variants before the first right one are known.
        """
        if not group.is_family:
            return
        right = proof.right[group.name]
        first = next(variant for variant in group.variants if variant.suffix == right[0])
        for variant in group.variants[group.variants.index(first) + 1 :]:
            if not self._is_known(group, variant) and time.monotonic() > deadline:
                log.info("%s%s is left to the next start to check", group.name, variant.suffix)
                continue
            kernel = self._wrong_kernel(group, variant)
            if kernel is None:
                right.append(variant.suffix)
            else:
                note = self._not_used(kernel, group, first)
                proof.notes += [] if note in proof.notes else [note]

    def _not_used(self, kernel: str, group: Group, instead: Variant) -> str:
        (_, asked), *_ = group.ops
        other = asked.kernel_of(instead)
        return f"{self._checker.blame(kernel)} {self._fault(kernel)} and is not used; {other} is right"

    def _fault(self, kernel: str) -> str:
        """Says what is wrong about a kernel that must not be used."""
        for refusal in self._measurements.get(_refusal_name(kernel)):
            return f"is refused by the driver ({refusal})"
        return "computes wrong numbers"

    def _wrong_kernel(self, group: Group, variant: Variant) -> str | None:
        """The first of a variant's kernels that is wrong; None where all are right."""
        for op, asked in group.ops:
            kernel = asked.kernel_of(variant)
            if self._outcome(group, op, variant, kernel) is None:
                return kernel
        return None

    def _outcome(self, group: Group, op: SmallOp, variant: Variant, kernel: str) -> float | None:
        """The kernel's error, None for a wrong one; as was found before or is found now."""
        kept = self._measurements.get(_name(group, op))
        if variant.suffix in kept:
            return kept[variant.suffix]
        try:
            error = self._checker.error(op, variant, kernel)
        except KernelRefused as refusal:
            self._measurements.put(_refusal_name(kernel), {str(refusal): None})
            found = None
        else:
            found = error if error <= self._checker.bound(op) else None
            if found is None:
                log.warning("%s is wrong: an error of %.3g in %s", kernel, error, op.op)
        self._measurements.put(_name(group, op), {variant.suffix: found})
        return found

    def _unknown_kernels(self, groups: list[Group]) -> Iterator[str]:
        """Yields the kernels of the variants of which nothing is known."""
        for group in groups:
            for variant in group.variants:
                if not self._is_known(group, variant):
                    yield from group.kernels(variant)

    def _has_found(self, groups: list[Group]) -> bool:
        """Returns true if something is known of each group."""
        return all(map(self._is_known_of, groups))

    def _is_known_of(self, group: Group) -> bool:
        return any(self._is_known(group, variant) for variant in group.variants)

    def _is_known(self, group: Group, variant: Variant) -> bool:
        return all(variant.suffix in self._measurements.get(_name(group, op)) for op, _ in group.ops)


def _refusal_name(kernel: str) -> str:
    """Under which the words of a driver are kept, as the only option, that does not compile a kernel."""
    return f"refused {kernel}"


def _name(group: Group, op: SmallOp) -> str:
    """Under which the errors of variants are kept."""
    return f"check {group.name} {op.digest}"
