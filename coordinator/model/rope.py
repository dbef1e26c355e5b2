"""The rotation of queries and keys by their positions: a frozen part of the specs of spec.py."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.model.attention import MAX_LATENT_LENGTHS
from tplaunch.coordinator.model.checks import MAX_NUMBER, ModelError, check_counts, check_number


@dataclass(frozen=True)
class Yarn:
    """The scaling of a rope by https://arxiv.org/abs/2309.00071: only of pairs that rotate seldom.

    Pairs with more rotations than `fast` keep their angles, those with fewer than `slow` get the scale.
    """

    fast: float
    slow: float

    def __post_init__(self) -> None:
        check_number("yarn's number of fast rotations", self.fast)
        check_number("yarn's number of slow rotations", self.slow)


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) of a head's first `dimension` elements."""

    dimension: int
    base: float
    scale: float  # positions are multiplied by this: linear scaling
    interleaved: bool  # True: element 2i rotates with 2i+1; False: i with i + dimension/2
    frequency_factors: str = ""  # the tensor that frequencies are divided by, where the model has it
    long_frequency_factors: str = ""  # another one, for contexts longer than the original
    original_context: int = 0  # positions before the context was extended
    yarn: Yarn | None = None
    magnitude: float = 1.0  # of the cosines and sines
    still_pairs: tuple[int, ...] = ()  # pairs that do not rotate

    def __post_init__(self) -> None:
        check_number("rope magnitude", self.magnitude)
        if self.yarn is not None or self.long_frequency_factors:
            check_counts(self, "original_context")
        if not 0 < self.dimension < 2**31 or self.dimension % 2:
            raise ModelError(f"the rope dimension is {self.dimension}; it must be a positive even number")
        if self.dimension > MAX_LATENT_LENGTHS[0]:
            raise ModelError(
                f"the rope dimension is {self.dimension}; no key has more than {MAX_LATENT_LENGTHS[0]}"
            )
        assert all(0 <= pair < self.dimension // 2 for pair in self.still_pairs), f"{self}"
        if not 1 < self.base < MAX_NUMBER:  # also refuses NaN
            raise ModelError(
                f"the model's rope base is {self.base}; a number between 1 and {MAX_NUMBER:g} is needed"
            )
        check_number("rope scale", self.scale)
