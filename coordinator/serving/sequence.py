"""One text that is being computed: its tokens, and where its keys, values and states lie."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Held:
    """A stretch of a sequence's block table: of windowed layers it begins where the window does."""

    start: int = 0  # index in the block table
    blocks: list[int] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.start + len(self.blocks)


@dataclass(eq=False)
class Sequence:
    """A prompt and what was made of it. `arrival` orders sequences: the lowest came first."""

    tokens: list[int]
    arrival: tuple[int, int] = (0, 0)
    logits_from: int | None = None  # the first position that gets logits; None for the last one alone
    num_prompt: int = 0  # tokens that were given, where that is not all of them
    reads_cache: bool = True  # may begin with what another one computed
    writes_cache: bool = True  # others may begin with what this one computes
    assumed: int = 0  # positions that are taken as computed, whatever the cache holds: for measuring

    # The rest is kept by KVMemory and the scheduler.
    num_computed: int = 0  # tokens whose keys and values are in the cache
    num_cached: int = 0  # of them those that another sequence had computed when this one was admitted
    seat: int | None = None  # its row of the block tables, while it runs
    held: tuple[Held, ...] = ()  # its blocks in the memory of each kind of layers
    slot: int | None = None  # of its recurrent state
    keys: list[bytes] = field(default_factory=list)  # of its full blocks, as far as they were wanted
    snapshot_at: frozenset[int] = frozenset()  # positions at which its state is worth keeping
    last_snapshot: bytes | None = None  # key of its newest state that was kept while it was decoding
    last_step: int = 0  # that computed rows of it
    num_overtaken: int = 0  # by newer ones, while it waited for room
    was_admitted: bool = False  # it has had a seat, now or before a preemption

    def __post_init__(self) -> None:
        self.num_prompt = self.num_prompt or len(self.tokens)

    def lose_memory(self) -> None:
        """Waits again as if nothing of it had been computed: the memory that it was in is gone."""
        self.num_computed = self.num_cached = self.last_step = 0
        self.seat, self.held, self.slot, self.keys = None, (), None, []
        self.snapshot_at, self.last_snapshot = frozenset(), None

    @property
    def first_logits(self) -> int:
        """The position from which on every one gets logits."""
        return len(self.tokens) - 1 if self.logits_from is None else self.logits_from

    @property
    def num_waiting(self) -> int:
        """Tokens that are not computed."""
        return len(self.tokens) - self.num_computed

    @property
    def in_prompt(self) -> bool:
        """Tells whether its next row is one of the prompt."""
        return self.num_computed < self.num_prompt

    @property
    def is_running(self) -> bool:
        return self.seat is not None


@dataclass(frozen=True)
class ScheduledRows:
    """Consecutive rows of one sequence within a step."""

    sequence: Sequence
    start: int  # position of the first row
    length: int
    num_logits: int  # of its last rows
    read_slot: int = -1
    write_slot: int = -1

    @property
    def row_keys(self) -> int:
        """Its rows, times the keys that the last of them sees; of a single row none count."""
        return self.length * (self.start + self.length) if self.length > 1 else 0

    @property
    def of_prompt(self) -> bool:
        """Tells whether all rows are of the sequence's prompt."""
        return self.start + self.length <= self.sequence.num_prompt
