"""Hierarchies: the oracles that joint and decoupled training satisfy."""

from __future__ import annotations

import copy

import pytest
import torch
from hierarchies import Taps, gradients, make_hierarchy, make_stream, oracles, unrolled
from torch import nn

from seqdni import HierarchyTrainer

ROWS = 3
SYSTEMS = {"2": (1, 3), "2-every-step": (1, 1), "3": (1, 2, 3)}
systems = pytest.mark.parametrize("periods", SYSTEMS.values(), ids=SYSTEMS)
contexts = pytest.mark.parametrize("contexts", [False, True], ids=["messages", "contexts"])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
CUTS = {"periods": [3] * 6 + [2], "ragged": [3, 1, 4, 2, 5, 1, 4], "long": [13, 7], "ones": [1] * 20}


def assert_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@systems
@contexts
@restarts
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_exact_synthesizers_make_the_gradient_of_one_graph(periods, contexts, resets, cuts):
    model = make_hierarchy(periods, contexts)
    stream = make_stream(model, 20, ROWS, resets)
    expected, learners = oracles(model, stream, scales=[1.0, 0.5, 2.0][: len(periods)])
    trainer = HierarchyTrainer(model, learners)
    for chunk in stream.chunks(cuts):
        trainer.step(chunk)
    trainer.finish()
    assert_close(gradients(model), expected)
