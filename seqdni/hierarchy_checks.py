"""What a hierarchy's trainer refuses before it computes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch

from seqdni.chunk import Chunk, check_ahead
from seqdni.hierarchy import Hierarchy
from seqdni.learner import Learner, check_optimizer
from seqdni.state import state_size

Mode: TypeAlias = Literal["joint", "dni", "no-feedback"]
"""A way to train a hierarchy."""


def check_looks_ahead(
    model: Hierarchy, lowest: Learner, mode: str, ahead: Chunk, rows: int
) -> None:
    """Refuse to look ahead where it cannot be used.

    Args:
        model: the hierarchy.
        lowest: the learner of its lowest level.
        mode: the way it is trained.
        ahead: the known steps.
        rows: of the stream.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    check_ahead(ahead, rows)
    if mode == "joint" or lowest.boundary is None:
        raise ValueError(
            "ahead needs a boundary of the lowest level, and a mode other than 'joint'; "
            "without a synthesizer: Boundary(None)"
        )
    if lowest.message_boundary is not None and lowest.message_boundary.synthesizer is not None:
        raise ValueError(
            "ahead takes the place of the lowest level's message synthesizer; give it "
            "message_boundary=Boundary(None)"
        )
    if model.levels[0].readout is None or any(
        level.readout is not None for level in model.levels[1:]
    ):
        raise ValueError("ahead is for hierarchies whose lowest level alone has a readout")


def check_learners(model: Hierarchy, learners: Sequence[Learner], mode: str) -> None:
    """Refuse learners that do not fit a hierarchy or the way it is trained.

    Args:
        model: the hierarchy.
        learners: one for each level, from the lowest.
        mode: the way.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    if len(learners) != len(model.levels):
        raise ValueError(
            f"got {len(learners)} learners for {len(model.levels)} levels; give one for each"
        )
    for k, learner in enumerate(learners):
        top = k == len(learners) - 1
        if k == 0 and learner.chunk_len is not None:
            raise ValueError(
                "the lowest level takes the chunks that are fed; leave out its chunk_len"
            )
        if k > 0 and learner.chunk_len is None:
            raise ValueError(f"level {k} needs a chunk_len, the ticks of its own chunk")
        if top and learner.message_boundary is not None:
            raise ValueError("the top level sends no messages; leave out its message_boundary")
        if mode == "dni" and not top and learner.message_boundary is None:
            raise ValueError(
                f"level {k} needs a message_boundary in the mode 'dni'; without one the level "
                "above does not teach it, and that is the mode 'no-feedback'"
            )
        name, of = f"the optimizer of level {k}", f"level {k}"
        check_optimizer(name, learner.optimizer, of, model.levels[k], learner.loss)
        _check_sizes(model, learner, k)


@torch.no_grad()
def _check_sizes(model: Hierarchy, learner: Learner, k: int) -> None:
    """A boundary takes what is cut there; asked once about zeros."""
    state = model.initial_carry(1)[k].state
    cuts = {"boundary": (learner.boundary, state)}
    if k + 1 < len(model.levels):
        like = next(model.parameters())
        cuts["message_boundary"] = (
            learner.message_boundary,
            like.new_zeros(1, model.message_sizes[k]),
        )
    for name, (boundary, cut_there) in cuts.items():
        if boundary is None or boundary.synthesizer is None:
            continue
        size = state_size(cut_there)
        try:
            known = boundary.synthesizer.context_size if name == "message_boundary" else 0
            hint = next(model.parameters()).new_zeros(1, known) if known else None
            got = boundary.predict(cut_there, hint).shape[1]
        except (RuntimeError, ValueError):
            got = None
        if got != size:
            raise ValueError(
                f"the {name} of level {k} does not take {size} features, the width of what is cut "
                "there; build its synthesizer with that state size"
            )
