"""Trainers from one flat list of settings, for tests that vary them one at a time."""

from __future__ import annotations

from dataclasses import fields

import torch

from seqdni import Boundary, Influence, Learner, LevelTraining, Overlap, SyntheticGradients, Trainer

OF_LEARNER = {each.name for each in fields(Learner)} - {"optimizer"}
RENAMED = {"synth_clip": "clip", "synth_optimizer": "optimizer"}


def split(settings: dict) -> tuple[dict, dict]:
    """Settings of a learner, and of synthetic gradients by their names there."""
    of_learner = {name: value for name, value in settings.items() if name in OF_LEARNER}
    others = {RENAMED.get(n, n): v for n, v in settings.items() if n not in OF_LEARNER}
    return of_learner, {n: v for n, v in others.items() if v is not None}


def flat_trainer(
    model, optimizer, *, boundary=None, history=0, influence=False, parallel=None, **settings
) -> Trainer:
    """A trainer; ``synth_clip`` and ``synth_optimizer`` are those of the synthetic gradients."""
    of_learner, others = split(settings)
    credit = None
    if boundary is not None:
        credit = SyntheticGradients(boundary, **others)
    elif history != 0:
        credit = Overlap(history)
    elif influence:
        credit = Influence()
    return Trainer(model, Learner(optimizer, **of_learner), credit, parallel)


def flat_training(
    optimizer, chunk_len=None, *, boundary=None, message_boundary=None, synth_lr=None, **settings
) -> LevelTraining:
    """How a level is trained; with ``synth_lr`` each boundary with parameters has an Adam."""
    of_learner, others = split(settings)

    def credit(boundary: Boundary | None) -> SyntheticGradients | None:
        if boundary is None:
            return None
        parameters = list(boundary.parameters())
        descent = torch.optim.Adam(parameters, synth_lr) if synth_lr and parameters else None
        return SyntheticGradients(boundary, descent, **others)

    return LevelTraining(
        Learner(optimizer, **of_learner), chunk_len, credit(boundary), credit(message_boundary)
    )
