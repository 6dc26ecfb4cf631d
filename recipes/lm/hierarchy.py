"""The language model of recipe ``lm`` with ``--hierarchy``: cores above it that tick seldom.

The lowest core reads every token; each core above ticks once in ``--period`` ticks of the one
below, on what that one shows, and its features are an input of the one below until it ticks again.
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
from seqdni.recipes.synthesizers import build_boundary, synthetic_gradients
from seqdni.recipes.trainers import way_of


class Reader(nn.Module):
    """A hierarchy as an ordinary language model: what its lowest level says of each token.

    Args:
        hierarchy: whose lowest level alone has a readout.
    """

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.hierarchy = hierarchy

    @property
    def readout(self) -> nn.Module:
        """Of the lowest level."""
        readout = self.hierarchy.levels[0].readout
        assert readout is not None
        return readout

    def initial_state(self, batch_size: int) -> Any:
        """Where a text begins: the carry of each level."""
        return tuple(self.hierarchy.initial_carry(batch_size))

    def forward(self, tokens_TB: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Scores for the token after each, and the carry to go on from."""
        return self.unroll(tokens_TB, state, None)

    def unroll(
        self, tokens_TB: Tensor, state: Any, should_reset: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The same, with texts that begin anew on the way."""
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
    """The levels above a language model, initialised from torch's random state.

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
        taken = slow if k + 1 < options.hierarchy else 0  # from above
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
    """The way of training that the options ask for.

    Looking ahead gives the lowest level's states and messages their gradients; a synthesizer, if
    there is one, bridges what is beyond those states, and all that is cut in the levels above.

    Args:
        options: of the run.
        reader: what is trained.
        loss: per step, of the lowest level's readouts and the targets.

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
    return HierarchyTrainer(model, trainings, mode)


def _message_credit(options: Any, size: int, k: int) -> SyntheticGradients:
    """What comes down at the messages of a level: at the lowest, known steps may tell it."""
    if k == 0 and options.look_ahead:
        return SyntheticGradients(Boundary(None))
    messages = replace(options, targets="boundary")  # a message has one gradient
    return synthetic_gradients(messages, build_boundary(options, size))


def window(options: Any) -> int:
    """Steps of the text in a chunk of the slowest level.

    Args:
        options: of the run.
    """
    return options.period ** (options.hierarchy - 1) * options.slow_chunk_len


def check_length(options: Any, steps: int) -> None:
    """Refuse a text in which the slowest level would not learn.

    Args:
        options: of the run.
        steps: of a row in one pass over the text.

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
    """A text for the trainer, each pass over it a stream of its own: ticks keep step with chunks.

    Args:
        chunks: of the text.
        trainer: told when a pass has ended.

    Yields:
        The chunks; the lowest level alone has answers.
    """
    silent = [None] * (len(trainer.model.levels) - 1)
    for inputs, targets, mask, should_reset in chunks:
        if should_reset is not None and bool(should_reset[0].all()):
            trainer.finish()
        yield HierarchyChunk(inputs, [(targets, mask), *silent], should_reset)
