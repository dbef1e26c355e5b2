"""From the arguments of the Python API to a model that is loaded."""

from __future__ import annotations

import os
from typing import Any

from tplaunch.coordinator.text.chat.template import ChatTemplate
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tplaunch.launcher.driver import Driver
from tplaunch.launcher.keywords import config_of
from tplaunch.launcher.model import Model, open_model


class Opened:
    """A model in a driver, with what makes tokens of texts and conversations."""

    def __init__(self, model: str | os.PathLike[str], **options: Any) -> None:
        """options: the command line's, by the same names. Raises what is wrong with them, or with the model."""
        config = config_of(model, options)
        self.model: Model = open_model(config)
        self.tokenizer: Tokenizer | None
        try:
            self.tokenizer = load_tokenizer(self.model.metadata)
        except TokenizerError as error:
            self.tokenizer, self._no_tokenizer = None, error
        self._template: ChatTemplate | None = None
        self.driver = Driver(config, self.model, self.tokenizer)
