"""The language model of recipe ``lm`` with ``--hierarchy``: several cores, one above the other.

The lowest core reads every token. Each core above it ticks once in ``--period`` ticks of the core
below, whose features it reads. Its own features are an input of the core below until its next tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seqdni import (
    Boundary,
    Hierarchy,
    HierarchyChunk,
    HierarchyTrainer,
    Learner,
    Level,
    LevelTraining,
    SyntheticGradients,
    state_size,
)
from seqdni.corpora import Batch
from seqdni.recipes.build import build_core, optimizer_of
from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.lm.options import window
from seqdni.recipes.processes import together
from seqdni.recipes.synthesizers import build_boundary, synthetic_gradients
from seqdni.recipes.trainers import way_of


class Reader(nn.Module):
    """A hierarchy as a language model: a core from tokens to the scores of the lowest level.

    Args:
        hierarchy: only its lowest level has a readout.
    """

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy

    @property
    def readout(self) -> nn.Module:
        """The readout of the lowest level."""
        readout = self.hierarchy.levels[0].readout
        assert readout is not None
        return readout

    def initial_state(self, batch_size: int) -> Any:
        """The carry of each level at the beginning of a text."""
        return tuple(self.hierarchy.initial_carry(batch_size))

    def forward(self, tokens_TB: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Scores for the token after each token, and the carry after the last."""
        return self.unroll(tokens_TB, state, None)

    def unroll(
        self, tokens_TB: Tensor, state: Any, should_reset: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The same, with rows that restart before some steps."""
        outputs, carry = self.hierarchy(tokens_TB, state, should_reset)
        assert outputs[0] is not None
        return outputs[0], tuple(carry)


def slow_width(options: Any) -> int:
    """Units of each core above the lowest, and features of its context.

    Args:
        options: of the run.
    """
    return options.slow_hidden or max(1, options.hidden // 8)


def build_reader(options: Any, encoder: nn.Module, core: nn.Module, readout: nn.Module) -> Reader:
    """Build a language model of several levels, with random weights of torch's generator.

    Args:
        options: of the run.
        encoder: of tokens.
        core: of the lowest level; takes the encoder's features and a context.
        readout: of the lowest level.

    Returns:
        The model on its device.
    """
    width, slow = options.hidden, slow_width(options)
    narrow = replace(options, hidden=slow, layers=1)
    levels = [Level(core, encoder=encoder, readout=readout)]  # pyright: ignore[reportArgumentType]
    for k in range(1, options.hierarchy):
        taken = slow if k + 1 < options.hierarchy else 0  # features from the level above
        levels.append(
            Level(
                build_core(narrow, width + taken),
                context=nn.Identity(),
                context_size=slow,
                period=options.period,
            )
        )
        width = slow
    hierarchy = Hierarchy(levels, example=torch.zeros(1, 1, dtype=torch.long))
    return Reader(hierarchy).to(device_of(options))


def build_trainer(options: Any, reader: Reader, loss: Any) -> HierarchyTrainer:
    """Build the trainer that the options describe.

    With ``--look-ahead`` the known steps give the lowest level's states and messages their
    gradients. A synthesizer, if there is one, predicts the gradients of what comes after these
    steps, and all gradients in the levels above.

    Args:
        options: of the run.
        reader: what is trained.
        loss: ``(outputs, targets) -> [T, B]``, for the lowest level.

    Returns:
        The trainer.
    """
    model, trainings = reader.hierarchy, []
    mode = way_of(options).mode
    assert mode is not None
    for k, level in enumerate(model.levels):
        learner = Learner(
            optimizer_of(options, level),
            loss=loss,
            loss_scale=1 / (window(options) if mode == "joint" else options.chunk_len),
            clip=options.clip,
            update_every=options.update_every,
            autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
        )
        training = LevelTraining(learner, options.slow_chunk_len if k else None)
        if mode == "dni":
            if k == 0 or options.synthesizer != "none":
                boundary = build_boundary(options, state_size(level.initial_state(1)))
                training.credit = synthetic_gradients(options, boundary)
            if k + 1 < len(model.levels):
                training.message_credit = _message_credit(options, model.message_sizes[k], k)
        trainings.append(training)
    parallel = None if options.apart else together()
    return HierarchyTrainer(model, trainings, mode, parallel)


def _message_credit(options: Any, size: int, k: int) -> SyntheticGradients:
    """How the messages of a level get gradients: at the lowest, with ``--look-ahead``, from it."""
    if k == 0 and options.look_ahead:
        return SyntheticGradients(Boundary(None))
    messages = replace(options, targets="boundary")  # a message has one gradient
    return synthetic_gradients(messages, build_boundary(options, size))


def check_length(options: Any, steps: int) -> None:
    """Refuse a text in which the slowest level would not learn.

    Args:
        options: of the run.
        steps: steps of a row in one pass over the text.

    Raises:
        RunError: they are fewer than a chunk of that level.
    """
    if steps < window(options):
        raise RunError(
            f"a pass over the text has {steps} steps a row, and a chunk of the slowest level "
            f"{window(options)} (--period to the power of levels below, times --slow-chunk-len): "
            "make these, --hierarchy or --batch smaller"
        )


def as_hierarchy_chunks(
    chunks: Iterable[Batch], trainer: HierarchyTrainer
) -> Iterator[HierarchyChunk]:
    """The chunks of a text in the form that the trainer takes.

    Each pass over the text is a stream of its own, so that ticks always lie at the same steps of a
    chunk.

    Args:
        chunks: of the text.
        trainer: its ``finish`` is called at the end of each pass.

    Yields:
        The chunks; the lowest level alone has targets.
    """
    without_targets = [None] * (len(trainer.model.levels) - 1)
    for inputs, targets, mask, should_reset in chunks:
        if should_reset is not None and bool(should_reset[0].all()):
            trainer.finish()
        yield HierarchyChunk(inputs, [(targets, mask), *without_targets], should_reset)
