"""The parts that LLM and AsyncLLM share: how they are made and closed, and their tokenizer."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.text.tokenizer import decode
from tplaunch.opening import open_keywords

L = TypeVar("L", bound="LoadedModel")


def _give_back(opened: Opened) -> None:
    """Closes a model that nobody has any more.

    The collector may find it in any thread, also in one that is waited for when a model is closed.
    """
    if threading.current_thread().name.startswith("tplaunch "):
        threading.Thread(target=opened.close, name="tplaunch close", daemon=True).start()
    else:
        opened.close()


class LoadedModel:
    """A model on its devices.

    It is given back by close(), at the end of a `with` block, when nobody has it any more, and at the end of
    the program. It may be made and used in any thread, and outlives the one that made it.
    """

    _opened: Opened

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        tensor_parallel_size: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        """Loads the model, which takes its time.

        model: the path of a GGUF file; or hf="org/name:Q4_K_M" instead, or demo=True. options: those of
        `tplaunch run --help` about the model, its ranks and memory, by the same names: devices="0,1",
        tensor_split=[3, 1], context=8192, kv_type="q8_0", max_memory={0: "8GiB"}, verbose=True and so on.
        max_model_len is another name of context. tensor_parallel_size: so many ranks, on the first devices
        of all, which are used in turn where there are fewer. hosts=2, key="hosts.key": others take part by
        `tplaunch join`, and are waited for. seed: requests without a seed of their own get
        one that follows from this and from how many came before.

        Raises UsageError for what is wrong with these or the file, RunError where loading fails.
        """
        self._attach(open_keywords(model, tensor_parallel_size, seed, options))

    @classmethod
    def of(cls: type[L], opened: Opened) -> L:
        """Returns one for a model that is loaded already."""
        made = cls.__new__(cls)
        made._attach(opened)
        return made

    def _attach(self, opened: Opened) -> None:
        self._opened = opened
        self._closing = weakref.finalize(self, _give_back, opened)

    def close(self) -> None:
        """Ends what is computed, and gives back devices, memory and processes. Closing again does nothing.

        Whoever waits for an answer gets a ClosedError, and so does every later call.
        """
        self._opened.close()
        self._closing.detach()

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Returns the token ids of a text.

        add_special: with the begin and end tokens that the model asks for. parse_special: texts of control
        tokens, such as <|user|>, become these tokens. Raises TokenizerError.
        """
        tokenizer = self._opened.needed_tokenizer()
        return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of tokens; those that stand for no text are left out. Raises TokenizerError."""
        return decode(self._opened.needed_tokenizer(), token_ids)
