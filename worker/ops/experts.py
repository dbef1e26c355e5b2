"""The operations of experts, as data: routing, products with the chosen ones, their sum.

A row together with one of its experts is a pair; pair row * used + choice. Buffers of pairs have a row for
every pair. What each op computes is defined by worker/numpy/experts.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.worker.ops.matrix import Matrix

# Pairs that are multiplied at once, and those of rows of prompts: shaders/routes.slang.
TILE_PAIRS, PROMPT_PAIRS = 4, 64
# The weight types for which there are kernels with tiles of prompts: what models with experts come in.
BLOCKS, K_QUANTS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"), ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
GROUPED = ("F16", "BF16", *BLOCKS, *K_QUANTS, "MXFP4")


def tile_words(pairs: int) -> int:
    """Returns the words that a tile of so many pairs takes."""
    return pairs + 4


@dataclass(frozen=True)
class HeldExperts:
    """The experts of a row by number, and those of all that this rank holds."""

    used: int
    first: int
    count: int

    def num_tiles(self, rows: int, pairs: int = TILE_PAIRS) -> int:
        """Returns the number of tiles of so many pairs that can hold any routing of `rows` rows."""
        return rows * self.used // pairs + self.count

    def tile_bytes(self, rows: int) -> int:
        """Returns the bytes that all tiles of either length take at most."""
        return max(
            4 * tile_words(pairs) * self.num_tiles(rows, pairs) for pairs in (TILE_PAIRS, PROMPT_PAIRS)
        )


def route_length(used: int) -> int:
    """Elements of a row of routes: whole float4."""
    return -(-2 * used // 4) * 4


@dataclass(frozen=True)
class Route:
    """routes[row] = the row's experts, the best first, and then their weights, all as float32.

    By the router's logits: gating makes probabilities of these; the best are chosen by them plus the bias, in
    the best groups, and ties go to the lower number. Their probabilities are the weights.

    With a parity they go to this rank's slot of the partial sums instead, for SharedRoutes; a rank that does
    not decide leaves zeros there.
    """

    count: int  # experts
    used: int
    gating: str  # one of coordinator.model.experts.GATINGS
    normalised: bool
    scale: float
    num_groups: int
    used_groups: int
    bias: str | None
    parity: int | None = None
    decides: bool = True

    @property
    def normalises(self) -> bool:
        """Tells if a row's weights are divided by their sum."""
        return self.normalised or self.gating == "softmax_chosen"

    @property
    def by_logits(self) -> bool:
        """Tells if logits choose: in the order of probabilities, without the ties that rounding makes."""
        return self.gating == "softmax_chosen" or (self.bias is None and self.num_groups == 1)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("router",) if self.decides else ())

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("routes" if self.parity is None else "partials",))


@dataclass(frozen=True)
class SharedRoutes:
    """routes = the sum of what all ranks' slots of a parity hold: one rank's choice, and others' zeros."""

    parity: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("partials",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("routes",))


@dataclass(frozen=True)
class ExpertTiles:
    """expert_tiles = the pairs of the experts that this rank holds, grouped by expert, a few in a tile.

    A tile is the expert's number among those held, how many pairs, and the pairs; missing ones are the last
    one again. An expert's tiles begin at (pairs of those before it) // (pairs of a tile) + (its number);
    those in between are empty.
    """

    held: HeldExperts
    pairs: int = TILE_PAIRS  # of a tile

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("routes",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("expert_tiles",))


@dataclass(frozen=True)
class ExpertMatMul:
    """output[pair, offset : offset + columns] = input x transposed matrix of the pair's expert (+ bias).

    The matrix holds `columns` rows of every expert that this rank has. The input is that of the pair's row,
    or the pair's own. A gated product's matrix has the gates of all experts and then their ups, and gives
    activation(gate) * up; where these lie apart, the gates' product finds the up in its output. Pairs of
    experts of other ranks are left out.
    """

    matrix: Matrix
    bias: str | None
    input: str
    output: str
    output_offset: int
    columns: int
    held: HeldExperts
    by_pair: bool = False  # whether the input is the pair's own
    tiled: bool = False  # whether pairs are found by expert_tiles
    activation: str | None = None
    gated: bool = False
    onto_up: bool = False
    weighs: bool = False  # whether products are times the pair's weight
    product_scales: str | None = None  # one for each expert; where gated, behind them one for each's ups
    of_prompts: bool = False  # whether tiles are those of prompts, whose products have an order of their own
    activations: str = "f32"  # or q8, or f16 of prompts: the input is what Quantize has made

    @property
    def reads(self) -> frozenset[str]:
        names = {self.input, "routes"}
        if self.tiled:
            names.add("expert_tiles")
        if self.onto_up:
            names.add(self.output)
        return frozenset(names)

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


@dataclass(frozen=True)
class ExpertSum:
    """partials[row] = expert_outputs of the row's pairs, times their weights, from the first choice on.

    In this rank's slot of a parity; pairs of other ranks' experts are left out. Without experts it is zeros.
    """

    held: HeldExperts
    parity: int
    scale: float
    weighs: bool  # or the weights are in the outputs already
    accumulates: bool  # onto what the slot holds already

    @property
    def reads(self) -> frozenset[str]:
        sources = ("expert_outputs", "routes") if self.held.count else ()
        return frozenset((*sources, *(("partials",) if self.accumulates else ())))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("partials",))


@dataclass(frozen=True)
class RowGate:
    """values[row, offset : offset + columns] *= logistic(input[row] x weight)."""

    weight: str
    width: int  # of the input
    input: str
    values: str
    offset: int
    columns: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input, self.values))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.values,))
