"""lm-evaluation-harness's model `tplaunch`: `python -m tplaunch.lm_eval run --model tplaunch ...`.

The harness has no way to find models of other packages by itself: that command is its own, with this one
registered, and a program imports this module to the same end. Loglikelihoods are those of LLM.score.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import lm_eval.models  # noqa: F401  registers the harness's own models
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from tplaunch import __version__
from tplaunch.coordinator.evaluation.scoring import begin_token, encode_pair
from tplaunch.coordinator.serving.opened import ChatOptions
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.llm import LLM

REQUESTS_TOGETHER = 1024  # that are handed over at once; what came of them is kept if the next ones fail
MAX_GENERATED = 256  # tokens, where a task does not say
LIST_SIGN = "+"  # parts devices, as the harness parts arguments by commas: devices=0+0
TOKEN_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
PARAMETERS = {field.name for field in fields(SamplingParams)} - {"n", "stop", "max_tokens", "temperature"}

log = logging.getLogger(__name__)


@register_model("tplaunch")
class TplaunchLM(TemplateLM):  # type: ignore[misc]  # the harness is not typed throughout
    """A model on its devices, as the harness asks for it."""

    def __init__(
        self,
        model: str | None = None,
        *,
        pretrained: str | None = None,
        llm: LLM | None = None,
        max_gen_toks: int = MAX_GENERATED,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        trust_remote_code: bool | None = None,
        **options: Any,
    ) -> None:
        """model: the path of a GGUF file; pretrained is another name of it. llm: one that is loaded already.
        max_gen_toks: generated at most where a task does not say. options: those of LLM; devices, and other
        lists, are parted by + or by spaces where a comma would part arguments. batch_size and the other names
        are the harness's own, for which there is nothing to choose: requests share steps by themselves.
        """
        super().__init__()
        lists = {"devices", "tensor_split"} & options.keys()
        options |= {name: str(options[name]).replace(LIST_SIGN, ",").replace(" ", ",") for name in lists}
        self.llm = llm or LLM(model or pretrained, **options)
        self._opened = self.llm._opened
        self._name = model or pretrained or str(options.get("hf", "demo"))
        self._max_generated = max_gen_toks
        self._has_chat = False

    @property
    def max_length(self) -> int:
        """The positions of the context."""
        return self._opened.driver.session.limits.context_length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, or the one that begins it where there is none."""
        token = self._opened.needed_tokenizer().eos_token_id
        return self.prefix_token_id if token is None else token

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context."""
        return begin_token(self._opened.needed_tokenizer())

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template's origin, for the harness's caches of requests."""
        return f"tplaunch {self._name}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Returns the token ids of a text, with one begin token where the model asks for one.

        A text that begins with that token already, as chat templates write it, gets no other.
        """
        tokenizer = self._opened.needed_tokenizer()
        found = tokenizer.encode(
            string, add_special=add_special_tokens is not False, parse_special=self._has_chat
        )
        bos = tokenizer.bos_token_id
        if add_special_tokens is None and bos is not None and found[:2] == [bos, bos]:
            return found[1:]
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self._has_chat:
            found: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return found
        return encode_pair(self._opened.needed_tokenizer(), context, continuation)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = []
        for part in _parts(requests, "Scoring", disable_tqdm):
            pairs = [self._fitting(context, continuation) for _, context, continuation in part]
            scores = self.llm.score(
                [context for context, _ in pairs], [behind for _, behind in pairs], use_tqdm=False
            )
            results = [(score.logprob, score.is_greedy) for score in scores]
            for (texts, *_), result in zip(part, results, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, result)
            found += results
        return found

    def _fitting(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Leaves out what has no room at the context's begin, as the harness does, and says so."""
        surplus = len(context) + len(continuation) - (self.max_length + 1)
        if surplus <= 0:
            return context, continuation
        if surplus >= len(context):
            raise ValueError(
                f"a continuation has {len(continuation)} tokens, and the context of {self.max_length} has no"
                " room for it; give more context, such as context=4096"
            )
        log.warning("a context of %d tokens is cut by %d at its begin", len(context), surplus)
        return context[surplus:], continuation

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-likelihoods of whole texts, each token behind as much as there is room for."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        text_of: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, rolling):
                windows.append((None, context, continuation))
                text_of.append(number)
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, disable_tqdm)
        for number, (logprob, _) in zip(text_of, scores, strict=True):
            sums[number] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns what is written behind each context, up to the texts that end it."""
        found: list[str] = []
        for part in _parts(requests, "Generating", disable_tqdm):
            prompts, params = [], []
            for context, wishes in (request.args for request in part):
                params.append(self._params(wishes))
                prompts.append(self._prompt(context, params[-1]))
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
            texts = [output.outputs[0].text for output in outputs]
            for request, text in zip(part, texts, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
            found += texts
        return found

    def _prompt(self, context: str, params: SamplingParams) -> list[int]:
        """The token ids of a context, cut at its begin where the answer would have no room."""
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        room = self.max_length - (params.max_tokens or 0)
        if room < 1:
            raise ValueError(
                f"{params.max_tokens} tokens are to be generated, and the context has {self.max_length};"
                " give more context, or a smaller max_gen_toks"
            )
        if len(tokens) > room:
            log.warning("a context of %d tokens is cut by %d at its begin", len(tokens), len(tokens) - room)
        return tokens[-room:]

    def _params(self, wishes: Mapping[str, Any]) -> SamplingParams:
        """Returns the parameters of a task's generation_kwargs. Raises ValueError for an unknown one."""
        given = dict(wishes)
        until = given.pop("until", None)
        samples = given.pop("do_sample", None)
        temperature = float(given.pop("temperature", 0.0) or 0.0)
        if samples is False:
            temperature = 0.0
        counts = [given.pop(name) for name in TOKEN_NAMES if name in given]
        unknown = given.keys() - PARAMETERS
        if unknown:
            raise ValueError(f"generation_kwargs has {min(unknown)!r}, which tplaunch does not know")
        stop = [text for text in ([until] if isinstance(until, str) else until or []) if text]
        most = int(counts[0] if counts else self._max_generated)
        return SamplingParams(temperature=temperature, max_tokens=most, stop=stop or None, **given)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Returns a conversation as the model file's template writes it."""
        self._has_chat = True  # from here on the names of control tokens in texts are these tokens
        options = ChatOptions(
            add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )
        text, _ = self._opened.rendered(chat_history, options)
        return text

    def get_model_info(self) -> dict[str, Any]:
        """Tells the harness's results what the model was run by; its own arguments are there already."""
        return {"tplaunch_version": __version__, "max_length": self.max_length}


def _parts(requests: Sequence[Any], title: str, is_hidden: bool) -> Iterable[Sequence[Any]]:
    """Yields requests in parts that are computed together, and shows how far they have come."""
    with tqdm(total=len(requests), desc=title, disable=is_hidden) as bar:
        for start in range(0, len(requests), REQUESTS_TOGETHER):
            part = requests[start : start + REQUESTS_TOGETHER]
            yield part
            bar.update(len(part))


def main() -> None:
    """Runs the harness's own command line."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
