"""A request's wishes for its tokens. Knows no vocabulary: that ids exist is checked where one is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.serving.sampling import values
from tplaunch.coordinator.serving.sampling.structured import StructuredOutputsParams

# llama.cpp's order (common/common.h). A stage that its parameters turn off does nothing wherever it stands.
STAGES = (
    "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"
)  # fmt: skip
# Other names that llama.cpp takes for them.
STAGE_ALIASES = {"typ_p": "typical_p", "typical": "typical_p", "temp": "temperature"}
DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True)
class SamplingParams:
    """Parameters that say how tokens are picked and where the text ends.

    Names and meanings are vLLM's where it has them, else llama.cpp's; the defaults of sampling are
    llama.cpp's. The logits are first changed: those of bad_token_ids, and of all tokens but the allowed
    ones, become -inf, and logit_bias is added. Then the stages run in the order of `samplers`.
    temperature 0 picks the likeliest token (of equals the lowest id) behind these changes, the penalties
    and DRY; the other stages are then without effect.

    Raises ValueError, one sentence that names the field, for a value that is not possible.
    """

    n: int = 1  # texts for one prompt, at most 1024
    temperature: float = 0.8
    top_k: int = 40  # keep so many of the likeliest tokens; 0 or -1: off
    top_p: float = 0.95  # keep the likeliest tokens that together reach this probability; 1: off
    min_p: float = 0.05  # keep tokens at least this probable, relative to the likeliest; 0: off
    typical_p: float = 1.0  # keep the most typical tokens that together pass this probability; 1: off
    top_n_sigma: float = -1.0  # keep logits within so many standard deviations of the highest; 0 or less: off
    xtc_probability: float = 0.0  # how often XTC removes the likeliest tokens; 0: off
    xtc_threshold: float = 0.1  # XTC removes tokens at least this probable, but for the last one
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # repeated tokens that cost nothing
    dry_penalty_last_n: int = -1  # tokens that DRY looks back at; -1: all, 0: off
    dry_sequence_breakers: Sequence[str] = DRY_BREAKERS  # no repetition is counted across these texts
    repetition_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64  # tokens, of the prompt too, that the three penalties look at; -1: all, 0: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None  # no others are picked
    bad_token_ids: Sequence[int] = ()  # never picked
    min_tokens: int = 0  # no token ends the text before so many
    max_tokens: int | None = 16  # None: as many as the context holds
    stop: str | Sequence[str] | None = None  # texts that end the text and are not part of it
    stop_token_ids: Sequence[int] | None = None  # tokens that end the text, beside the model's own
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False  # go on past the model's end tokens
    seed: int | None = None  # without one, or with -1, every request differs
    logprobs: int | None = None  # beside each token's log probability those of so many likeliest tokens
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    detokenize: bool = True
    skip_special_tokens: bool = True  # False: texts show control tokens by their names
    samplers: str | Sequence[str] = STAGES  # the stages' order, a text parts them by ;. Others do not run
    structured_outputs: StructuredOutputsParams | None = None  # what the text shall look like

    def __post_init__(self) -> None:
        for name, (low, high) in _REALS.items():
            self._set(name, values.real(name, getattr(self, name), low, high))
        for name, (least, most) in _INTEGERS.items():
            self._set(name, values.integer(name, getattr(self, name), least, most))
        for name in ("max_tokens", "logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                self._set(name, values.integer(name, getattr(self, name), int(name == "max_tokens")))
        for name in ("include_stop_str_in_output", "ignore_eos", "detokenize", "skip_special_tokens"):
            values.flag(name, getattr(self, name))
        if self.seed is not None:
            seed = values.integer("seed", self.seed, -1, 2**128 - 1)
            self._set("seed", None if seed == -1 else seed)
        self._set("top_k", max(0, self.top_k))
        self._set("bad_token_ids", values.token_ids("bad_token_ids", self.bad_token_ids))
        self._set("stop_token_ids", values.token_ids("stop_token_ids", self.stop_token_ids))
        self._set("stop", values.texts("stop", self.stop))
        self._set("dry_sequence_breakers", values.texts("dry_sequence_breakers", self.dry_sequence_breakers))
        self._set("logit_bias", values.biases("logit_bias", self.logit_bias))
        if not isinstance(self.structured_outputs, StructuredOutputsParams | None):
            raise ValueError(
                "structured_outputs must be StructuredOutputsParams, not of type"
                f" {type(self.structured_outputs).__name__}"
            )
        self._check_allowed()
        self._check_samplers()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens must be at most max_tokens, which is {self.max_tokens}, not {self.min_tokens}"
            )

    def _check_allowed(self) -> None:
        if self.allowed_token_ids is None:
            return
        self._set("allowed_token_ids", values.token_ids("allowed_token_ids", self.allowed_token_ids))
        if not self.allowed_token_ids:
            raise ValueError("allowed_token_ids must name at least one token; None allows all")

    def _check_samplers(self) -> None:
        given = self.samplers.split(";") if isinstance(self.samplers, str) else self.samplers
        names = [name for name in values.texts("samplers", given, may_be_empty=True) if name]
        stages = tuple(STAGE_ALIASES.get(name, name) for name in names)
        unknown = [name for name in stages if name not in STAGES]
        if unknown:
            raise ValueError(f"samplers must be among {', '.join(STAGES)}, not {unknown[0]!r:.80}")
        if len(set(stages)) < len(stages):
            raise ValueError(f"samplers must name each stage once, not {', '.join(stages)}")
        self._set("samplers", stages)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts; `stop` as it is kept."""
        return tuple(self.stop or ())

    @property
    def is_greedy(self) -> bool:
        """True where the likeliest token is always picked."""
        return self.temperature == 0


_REALS = {
    "temperature": (0.0, float("inf")),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-values.MOST, values.MOST),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "dry_multiplier": (0.0, values.MOST),
    "dry_base": (1.0, values.MOST),
    "repetition_penalty": (1e-6, 1e6),
    "presence_penalty": (-values.MOST, values.MOST),
    "frequency_penalty": (-values.MOST, values.MOST),
}
_MOST_TEXTS = 1024  # of a prompt: each keeps a sampler, which may have tables of the vocabulary
_INTEGERS = {
    "n": (1, _MOST_TEXTS),
    "top_k": (-1, values.MAX_INTEGER),
    "dry_allowed_length": (1, values.MAX_INTEGER),
    "dry_penalty_last_n": (-1, values.MAX_INTEGER),
    "repeat_last_n": (-1, values.MAX_INTEGER),
    "min_tokens": (0, values.MAX_INTEGER),
}
