"""The trained model that :func:`seqdni.load` returns, to be used in Python."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqdni import without_dropout
from seqdni.corpora import Vocabulary
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.errors import RunError
from seqdni.recipes.lm.data import prepared
from seqdni.recipes.lm.model import score
from seqdni.recipes.lm.sample import write
from seqdni.recipes.saved_run import saved_run


class Loaded(NamedTuple):
    """A trained model with its vocabulary and the options of its run.

    Args:
        model: the model, on its device.
        vocabulary: converts text to token ids and back; None where the model reads no text.
        options: of its run.
    """

    model: Any
    vocabulary: Vocabulary | None
    options: Any

    def score(self, text: str) -> float:
        """The mean loss of the model on a text, along which its state is carried.

        Args:
            text: at least two tokens, of characters that the model knows.

        Returns:
            Nats per token; :func:`seqdni.to_bits` and :func:`seqdni.to_perplexity` convert them.

        Raises:
            RunError: the model reads no text.
            CorpusError: a character of the text is unknown to the model.
        """
        tokens = self._encoded(text)
        if len(tokens) < 2:
            raise RunError(f"the text has {len(tokens)} tokens, expected at least 2; give more")
        return score(self.model, tokens, len(self._words()))

    def sample(
        self,
        prompt: str = "",
        length: int = 100,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> str:
        """Generate text.

        Args:
            prompt: what the text begins with.
            length: number of tokens after the prompt.
            seed: of the random choices.
            temperature: divides the scores: below 1 likely tokens are chosen more often, above 1
                less often; 0 always takes the likeliest.
            top_k: choose among so many of the likeliest tokens; None: among all.

        Returns:
            The prompt and its continuation.

        Raises:
            RunError: the model reads no text.
            CorpusError: a character of the prompt is unknown to the model.
        """
        asked, written = Sampling(length, seed, temperature, top_k, prompt), io.StringIO()
        with contextlib.redirect_stdout(written):
            as_bytes = self.options.corpus == "enwik8" if self._words() else False
            write(self.model, self._words(), asked, as_bytes)
        return written.getvalue().removesuffix("\n")

    @torch.no_grad()
    def hidden_states(self, inputs: str | Tensor) -> Tensor:
        """The output of the recurrent core at each step, which is what the readout takes.

        Args:
            inputs: a text; or what the model takes, ``[T, B]`` ids or ``[T, B, D]`` features.

        Returns:
            ``[T, B, H]``, one row for a text.

        Raises:
            RunError: a text was given to a model that reads none, or the model has several
                readouts.
        """
        if isinstance(inputs, str):
            inputs = torch.from_numpy(self._encoded(inputs).astype(np.int64))[:, None]
        if not hasattr(self.model, "readout"):
            raise RunError(f"{self.options.recipe} has a readout at each level; use model.levels")
        seen: list[Tensor] = []
        hook = self.model.readout.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            with without_dropout(self.model):
                device = next(self.model.parameters()).device
                self.model(inputs.to(device), self.model.initial_state(inputs.shape[1]))
        finally:
            hook.remove()
        return torch.cat(seen)

    def _encoded(self, text: str) -> np.ndarray:
        return self._words().encode(prepared(self.options, text))

    def _words(self) -> Vocabulary:
        if self.vocabulary is None:
            raise RunError(f"a model of {self.options.recipe} reads no text; expected one of lm")
        return self.vocabulary


def load(path: str | Path, device: str) -> Loaded:
    """See :func:`seqdni.load`.

    Args:
        path: folder of a run, or of an export.
        device: where the model computes.

    Returns:
        The best model of a run of ``lm``, else the last.
    """
    directory, recipe, options = saved_run(path)
    options.device = device
    found = recipe.file.trained(directory, options)
    return Loaded(found.model, found.vocabulary, options)
