"""LLM: a loaded model for programs that wait for their answers. No event loop is involved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tplaunch.batch import compute
from tplaunch.coordinator.evaluation.scoring import SCORING, Score, score_of, scored
from tplaunch.coordinator.serving.opened import ChatOptions
from tplaunch.coordinator.serving.request import Reading, Request, RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.loaded import LoadedModel
from tplaunch.outputs import GenerationError, RequestOutput, request_output
from tplaunch.prompts import (
    Conversation,
    Prompt,
    conversations_of,
    named,
    parameters_of,
    prompts_of,
    tokens_of,
    which,
)
from tplaunch.scoring import as_pair

L = TypeVar("L", bound="LLM")
READING = SamplingParams(temperature=0, max_tokens=1, detokenize=False)


class LLM(LoadedModel):
    """A model on its devices, whose methods return when all is computed.

    Several threads may call them at once: their requests share steps.
    """

    def __enter__(self: L) -> L:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continues prompts, all of them together, and returns what came of each, in their order.

        prompts: a text, a list of token ids, {"prompt": text} or {"prompt_token_ids": ids}, or a list of
        these. sampling_params: for all of them, or one for each. use_tqdm: with a progress bar, where
        standard error is a terminal or a notebook.

        Raises RequestError before anything is computed where one of them can't be; GenerationError where one
        fails later, with what came of the others in its `outputs`; RunError where a rank fails; ClosedError.
        Ctrl-C ends these requests, and the model can be used again.
        """
        listed, is_only = prompts_of(prompts)
        params = self._params(sampling_params, len(listed))
        read = []
        for index, prompt in enumerate(listed):
            with named(index, is_only=is_only):
                read.append(tokens_of(self._opened, prompt))
        return self._generate(read, params, is_only, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[RequestOutput]:
        """Answers conversations, as the model's chat template has them, and returns what came of each.

        messages: a list of {"role": ..., "content": ...}, or a list of such lists. continue_final_message:
        the answer goes on where the last message ends. chat_template: another template, or the name of one
        of the file's. chat_template_kwargs: what else it may ask for, such as enable_thinking.

        Raises what generate raises; RequestError also where the template refuses a conversation.
        """
        options = ChatOptions(
            add_generation_prompt, continue_final_message, chat_template, chat_template_kwargs, tools
        )
        listed, is_only = conversations_of(messages)
        params = self._params(sampling_params, len(listed))
        read: list[tuple[str | None, list[int]]] = []
        for index, conversation in enumerate(listed):
            with named(index, is_only=is_only):
                read.append(self._opened.rendered(conversation, options))
        return self._generate(read, params, is_only, use_tqdm)

    def score(
        self,
        contexts: Prompt | Sequence[Prompt],
        continuations: Prompt | Sequence[Prompt],
        use_tqdm: bool = True,
    ) -> list[Score]:
        """Returns how likely each continuation is behind its context, by the model's own distribution.

        Texts are tokenized together, as evaluation harnesses do: spaces at the context's end belong to the
        continuation, whose tokens are those behind as many as the context alone has. An empty context stands
        for the begin of a text. One context goes with all continuations, and one continuation with all
        contexts. Raises what generate raises.
        """
        before, is_one_context = prompts_of(contexts)
        behind, is_one_continuation = prompts_of(continuations)
        before = before * len(behind) if is_one_context else before
        behind = behind * len(before) if is_one_continuation else behind
        if len(before) != len(behind):
            raise RequestError(f"there are {len(before)} contexts, but {len(behind)} continuations")
        is_only = is_one_context and is_one_continuation
        pairs = []
        for index, (context, continuation) in enumerate(zip(before, behind, strict=True)):
            with named(index, is_only=is_only):
                pairs.append(as_pair(self._opened, context, continuation))
        texts = [scored(context, continuation) for context, continuation in pairs]
        requests = compute(
            self._opened.driver,
            [prompt for prompt, _ in texts],
            [SCORING] * len(texts),
            is_only=is_only,
            readings=[reading for _, reading in texts],
            shows_progress=use_tqdm,
        )
        self._raise_failures(requests, [], is_only)
        return [score_of(request) for request in requests]

    def logits(self, prompt: Prompt) -> npt.NDArray[np.float32]:
        """Returns the logits behind each token of a prompt [tokens, vocabulary].

        Raises RequestError for a prompt that can't be computed, RunError and ClosedError.
        """
        _, tokens = tokens_of(self._opened, prompt)
        rows: list[npt.NDArray[np.float32]] = []
        reading = Reading(take_row=lambda _, row: rows.append(row))
        compute(self._opened.driver, [tokens], [READING], is_only=True, readings=[reading])
        return np.stack(rows)

    def _params(
        self, given: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
    ) -> list[SamplingParams]:
        return [self._opened.seeded(params) for params in parameters_of(given, num_prompts)]

    def _generate(
        self,
        prompts: Sequence[tuple[str | None, list[int]]],
        params: Sequence[SamplingParams],
        is_only: bool,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        """prompts: their texts, where they have any, and their token ids."""
        tokens = [tokens for _, tokens in prompts]
        constraints = []
        for index, one in enumerate(params):
            with named(index, is_only=is_only):
                constraints.append(self._opened.constraint(one))
        requests = compute(
            self._opened.driver,
            tokens,
            params,
            is_only=is_only,
            constraints=constraints,
            shows_progress=use_tqdm,
        )
        outputs = [
            request_output(request, request.outputs, text, self._opened.tokenizer)
            for request, (text, _) in zip(requests, prompts, strict=True)
        ]
        self._raise_failures(requests, outputs, is_only)
        return outputs

    def _raise_failures(
        self, requests: Sequence[Request], outputs: Sequence[RequestOutput], is_only: bool
    ) -> None:
        """Raises GenerationError for the first request that failed by itself."""
        for index, request in enumerate(requests):
            if request.error is not None:
                reason = self._opened.driver.session.explain(request.error)
                raise GenerationError(which(index, is_only=is_only) + reason, outputs) from request.error
