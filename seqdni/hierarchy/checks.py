"""What a hierarchy's trainer refuses before it computes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch

from seqdni.chunk import Chunk, check_ahead
from seqdni.hierarchy.level_trainer import LevelTraining
from seqdni.hierarchy.model import Hierarchy
from seqdni.learner import check_optimizer
from seqdni.state import state_size
from seqdni.synthetic_gradients import check_dense

Mode: TypeAlias = Literal["joint", "dni", "no-feedback"]
"""How a hierarchy is trained; see :class:`seqdni.HierarchyTrainer`."""


def check_looks_ahead(
    model: Hierarchy, lowest: LevelTraining, mode: str, ahead: Chunk, rows: int
) -> None:
    """Refuse known steps where looking ahead cannot be used.

    Args:
        model: the hierarchy.
        lowest: how its lowest level is trained.
        mode: how the hierarchy is trained.
        ahead: the known steps.
        rows: B, of the stream.

    Raises:
        ValueError: something does not fit; the message says what was expected.
    """
    check_ahead(ahead, rows)
    if mode == "joint" or lowest.credit is None:
        raise ValueError(
            "ahead needs credit for the lowest level, and a mode other than 'joint'; "
            "without a synthesizer: SyntheticGradients(Boundary(None))"
        )
    messages = lowest.message_credit
    if messages is not None and messages.boundary.synthesizer is not None:
        raise ValueError(
            "ahead takes the place of the lowest level's message synthesizer; give it "
            "message_credit=SyntheticGradients(Boundary(None))"
        )
    if model.levels[0].readout is None or any(
        level.readout is not None for level in model.levels[1:]
    ):
        raise ValueError("ahead is for hierarchies whose lowest level alone has a readout")


def check_levels(model: Hierarchy, trainings: Sequence[LevelTraining], mode: str) -> None:
    """Refuse trainings that do not fit a hierarchy or the way it is trained.

    Args:
        model: the hierarchy.
        trainings: one for each level, from the lowest.
        mode: how the hierarchy is trained.

    Raises:
        ValueError: something does not fit; the message says what was expected.
        TypeError: an element is not a ``LevelTraining``.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    for each in trainings:
        if not isinstance(each, LevelTraining):
            raise TypeError(
                f"got a {type(each).__name__}, expected a LevelTraining for each level: "
                "LevelTraining(Learner(optimizer), chunk_len=4)"
            )
    if len(trainings) != len(model.levels):
        raise ValueError(
            f"got {len(trainings)} trainings for {len(model.levels)} levels; give one for each"
        )
    for k, training in enumerate(trainings):
        top, learner = k == len(trainings) - 1, training.learner
        if k == 0 and training.chunk_len is not None:
            raise ValueError(
                "the lowest level takes the chunks that are fed; leave out its chunk_len"
            )
        if k > 0 and training.chunk_len is None:
            raise ValueError(f"level {k} needs a chunk_len, the ticks of its own chunk")
        if top and training.message_credit is not None:
            raise ValueError("the top level sends no messages; leave out its message_credit")
        if mode == "dni" and not top and training.message_credit is None:
            raise ValueError(
                f"level {k} needs a message_credit in the mode 'dni'; without one the level "
                "above does not teach it, and that is the mode 'no-feedback'"
            )
        if mode == "joint" and learner.update_every == "episode":
            raise ValueError(
                "update_every='episode' does not go with the mode 'joint', which updates after "
                "each graph; give a number of graphs"
            )
        name, of = f"the optimizer of level {k}", f"level {k}"
        check_optimizer(name, learner.optimizer, of, model.levels[k], learner.loss)
        check_dense(training.credit, model.levels[k].core)
        for credit in (training.credit, training.message_credit):
            if credit is not None and credit.audit is not None:
                raise ValueError(
                    f"level {k} has an audit, which only Trainer carries out; "
                    "give SyntheticGradients(audit=None)"
                )
        _check_sizes(model, training, k)


@torch.no_grad()
def _check_sizes(model: Hierarchy, training: LevelTraining, k: int) -> None:
    """Run each synthesizer once on zeros, to see that it takes the state or message cut there."""
    state = model.initial_carry(1)[k].state
    cuts = {"credit": (training.credit, state)}
    if k + 1 < len(model.levels):
        like = next(model.parameters())
        cuts["message_credit"] = (
            training.message_credit,
            like.new_zeros(1, model.message_sizes[k]),
        )
    for name, (synthetic, cut_there) in cuts.items():
        if synthetic is None or synthetic.boundary.synthesizer is None:
            continue
        size = state_size(cut_there)
        try:
            known = synthetic.condition_size if name == "message_credit" else 0
            condition = next(model.parameters()).new_zeros(1, known) if known else None
            got = synthetic.boundary.predict(cut_there, condition).shape[1]
        except (RuntimeError, ValueError):
            got = None
        if got != size:
            raise ValueError(
                f"the {name} of level {k} does not take {size} features, the width of what is cut "
                "there; build its synthesizer with that state size"
            )
