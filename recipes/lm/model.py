"""The language model of recipe ``lm``, its loss and its score.

Shapes: T steps, B rows, V symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from seqdni import (
    AdaptiveReadout,
    LockedDropout,
    OneHot,
    SequenceModel,
    cross_entropy,
    masked_sum,
    unroll,
    without_dropout,
)
from seqdni.corpora import evaluation_chunks
from seqdni.recipes.build import build_core
from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.lm.hierarchy import Reader, build_reader, slow_width

LanguageModel: TypeAlias = SequenceModel | Reader
ONE_HOT_UP_TO = 512  # symbols
EMBEDDING_RANGE = 0.1  # largest initial weight; with tied weights all symbols start almost equal
EVALUATION_ROWS, EVALUATION_STEPS = 64, 200
WARMUP_STEPS = 500  # that a row reads before it scores, so that the error is that of one row
WARMUP_TICKS = 64  # the same in ticks of a hierarchy's slowest level
EVALUATION_SCORES = 1 << 24  # largest number of scores in memory at once


def build(options: Any, symbols: int) -> LanguageModel:
    """Build the language model, with random weights drawn from the seed.

    Args:
        options: of the run.
        symbols: V.

    Returns:
        The model on its device.

    Raises:
        RunError: the options do not fit each other or the vocabulary.
    """
    width = options.embedding
    if width is None:
        width = options.hidden if options.tie or symbols > ONE_HOT_UP_TO else 0
    torch.manual_seed(options.seed)
    context = slow_width(options) if options.hierarchy > 1 else 0
    core = build_core(options, (width or symbols) + context, options.dropout)
    readout: nn.Module
    if options.cutoffs:
        try:
            readout = AdaptiveReadout(options.hidden, symbols, options.cutoffs)
        except ValueError as error:
            raise RunError(f"--cutoffs: {error}") from None
    else:
        readout = nn.Linear(options.hidden, symbols)
    encoder: nn.Module
    if not width:
        encoder = OneHot(symbols)
    else:
        encoder = nn.Embedding(symbols, width)
        nn.init.uniform_(encoder.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        if options.tie:
            assert isinstance(readout, nn.Linear)
            readout.weight = encoder.weight
            nn.init.zeros_(readout.bias)
    if options.dropout:
        if width:
            encoder = nn.Sequential(encoder, LockedDropout(options.dropout))
        readout = nn.Sequential(LockedDropout(options.dropout), readout)
    if options.hierarchy > 1:
        return build_reader(options, encoder, core, readout)
    return SequenceModel(encoder, core, readout).to(device_of(options))


def trained_part(model: LanguageModel) -> nn.Module:
    """The module that is trained and saved in checkpoints.

    Args:
        model: from :func:`build`.

    Returns:
        The model itself, or the hierarchy in it.
    """
    return model.hierarchy if isinstance(model, Reader) else model


def loss_of(model: LanguageModel) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that the model is trained on.

    Args:
        model: from :func:`build`.

    Returns:
        A function ``(outputs, targets) -> [T, B]``, in nats.
    """
    last = _last(model)
    return last.loss if isinstance(last, AdaptiveReadout) else cross_entropy


def scores_of(model: LanguageModel, outputs_TBD: Tensor) -> Tensor:
    """The scores of all symbols: logits, or log-probabilities.

    Args:
        model: from :func:`build`.
        outputs_TBD: what the model returns.

    Returns:
        ``[T, B, V]``.
    """
    last = _last(model)
    return last.log_prob(outputs_TBD) if isinstance(last, AdaptiveReadout) else outputs_TBD


def _last(model: LanguageModel) -> nn.Module:
    return model.readout[-1] if isinstance(model.readout, nn.Sequential) else model.readout


def at_once(scores: int, most: int) -> int:
    """How many steps or rows to evaluate at once, so that their scores fit into memory.

    Args:
        scores: number of scores of one of them.
        most: upper limit.

    Returns:
        1 or more.
    """
    return max(1, min(most, EVALUATION_SCORES // scores))


@torch.no_grad()
def score(model: LanguageModel, tokens: np.ndarray, symbols: int) -> float:
    """The mean loss of predicting each token of a text except the first, without dropout.

    The state is carried along the text. A long text is read in several rows at once. Each row first
    reads the end of the part that the row before scores, so that the result does not depend on the
    number of rows (:func:`seqdni.corpora.evaluation_chunks`).

    Args:
        model: from :func:`build`.
        tokens: ``[n]`` ids.
        symbols: V.

    Returns:
        Nats per scored token.
    """
    device, loss = next(model.parameters()).device, loss_of(model)
    steps = at_once(symbols * EVALUATION_ROWS, EVALUATION_STEPS)
    period = model.hierarchy.periods[-1] if isinstance(model, Reader) else 1
    warmup = max(WARMUP_STEPS, WARMUP_TICKS * period)
    nats, state = torch.zeros((), dtype=torch.float64, device=device), None
    with without_dropout(model):
        for inputs, targets, mask, _ in evaluation_chunks(
            tokens, EVALUATION_ROWS, steps, warmup, align=period
        ):
            state = model.initial_state(inputs.shape[1]) if state is None else state
            outputs, state = unroll(model, inputs.to(device), state)
            mask = None if mask is None else mask.to(device)
            nats += masked_sum(loss(outputs, targets.to(device)), mask)
    return nats.item() / (len(tokens) - 1)
