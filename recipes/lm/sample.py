"""Prints text that a language model generates, token by token."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from seqdni import without_dropout
from seqdni.corpora import CorpusError, Vocabulary
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.lm.model import LanguageModel, scores_of

MOST, OVERLAP = 64, 16  # tokens decoded together with each new one: at most, and after a cut


@torch.no_grad()
def write(
    model: LanguageModel,
    vocabulary: Vocabulary,
    asked: Sampling,
    as_bytes: bool = False,
) -> None:
    """Print a prompt and its continuation.

    Args:
        model: trained.
        vocabulary: of the model.
        asked: tokens after the prompt, and how they are chosen.
        as_bytes: whether the vocabulary's characters stand for bytes of UTF-8.

    Raises:
        CorpusError: the prompt has a character that the model does not know.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(asked.seed)
    prompt = asked.prompt
    if as_bytes:
        prompt = prompt.encode("utf-8", "surrogateescape").decode("latin-1")
    assert asked.length is not None
    ids = vocabulary.encode(prompt)
    if not len(ids):  # no prompt, or a blank one of a model of words
        prompt, ids = "", _beginning(vocabulary)
    tokens = torch.from_numpy(ids.astype(np.int64))[:, None]
    state = model.initial_state(1)
    written = ids.tolist() if prompt else []  # the last tokens, which are decoded with a new one
    sys.stdout.write(shown := _decode(vocabulary, written, as_bytes))
    with without_dropout(model):
        for _ in range(asked.length):
            outputs, state = model(tokens.to(device), state)
            scores_V = scores_of(model, outputs[-1:])[0, 0].double().cpu()
            tokens = _choose(scores_V, asked, generator).view(1, 1)
            written.append(int(tokens))
            text = _decode(vocabulary, written, as_bytes)
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
            if len(written) > MOST:
                written = written[-OVERLAP:]
                shown = _decode(vocabulary, written, as_bytes)
    sys.stdout.write("\n")


def _choose(scores_V: Tensor, asked: Sampling, generator: torch.Generator) -> Tensor:
    if asked.temperature == 0:
        return scores_V.argmax()
    if asked.top_k is not None and asked.top_k < len(scores_V):
        least = scores_V.topk(asked.top_k).values[-1]
        scores_V = scores_V.masked_fill(scores_V < least, -torch.inf)
    scores_V = scores_V - scores_V.max()
    return torch.multinomial((scores_V / asked.temperature).softmax(0), 1, generator=generator)[0]


def _beginning(vocabulary: Vocabulary) -> np.ndarray:
    """The end of a line as first token; token 0 where the vocabulary has no such token."""
    try:
        ids = vocabulary.encode("\n")
    except CorpusError:  # characters, none of them a newline
        return np.zeros(1, dtype=np.int64)
    return ids if vocabulary.decode(ids) == "\n" else np.zeros(1, dtype=np.int64)


def _decode(vocabulary: Vocabulary, ids: list[int], as_bytes: bool) -> str:
    """The text of some tokens, without a last character that is not complete yet."""
    text = vocabulary.decode(ids)
    if as_bytes:
        text = text.encode("latin-1").decode("utf-8", "replace")
    return text.rstrip("\ufffd")
