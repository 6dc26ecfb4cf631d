"""The table of the ways of training, against the options of the recipes."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from seqdni import (
    Checkpointed,
    Influence,
    Overlap,
    RandomTruncation,
    Reweighted,
    SequenceModel,
    SyntheticGradients,
)
from seqdni.recipes.build import build_model
from seqdni.recipes.common_options import RunOptions
from seqdni.recipes.count_digits.options import WAYS
from seqdni.recipes.layers.options import WAYS as WAYS_OF_LAYERS
from seqdni.recipes.lm.options import Options as TextOptions
from seqdni.recipes.synthesizers import KINDS, LEARNING, SynthesizerName
from seqdni.recipes.trainers import SYNTHETIC, TRAINERS, way_of


def test_every_choice_of_trainer_has_an_entry():
    one_network = get_args(get_type_hints(RunOptions)["trainer"])
    text = get_args(get_type_hints(TextOptions)["trainer"])
    assert set(one_network) <= set(text)
    assert {*text, *WAYS, *WAYS_OF_LAYERS} == set(TRAINERS)
    assert all(TRAINERS[name].help for name in one_network)
    assert all(TRAINERS[name].mode == name for name in WAYS)
    assert SYNTHETIC == ("dni", "dni-aux")


def test_own_options_are_refused_with_every_other_way():
    shown = {each.name: each.metadata for each in fields(RunOptions) if each.metadata}
    for name in get_args(get_type_hints(RunOptions)["trainer"]):
        options = RunOptions(trainer=name)
        for other, way in TRAINERS.items():
            for own in way.own_options:
                assert shown[own]["only"](options) == (name == other)


@pytest.mark.parametrize(
    ("name", "stream", "model", "credit"),
    [
        ("bptt", list, SequenceModel, type(None)),
        ("tbptt", list, SequenceModel, type(None)),
        ("random", RandomTruncation, Reweighted, type(None)),
        ("overlap", list, SequenceModel, Overlap),
        ("influence", list, SequenceModel, Influence),
        ("dni", list, SequenceModel, SyntheticGradients),
        ("dni-aux", list, SequenceModel, SyntheticGradients),
    ],
)
def test_what_each_way_wraps_and_what_carries_its_credit(name, stream, model, credit):
    options = RunOptions(trainer=name, hidden=3, synthesizer="mlp", grad_scale=1.0)
    way, built = way_of(options), build_model(options, 2, 2)
    assert type(way.wrap_stream(options, [])) is stream
    wrapped = way.wrap_model(options, built)
    assert type(wrapped) is model
    found = way.credit(options, built)
    assert type(found) is credit
    if isinstance(found, SyntheticGradients):
        assert (found.boundary.synthesizer.aux_head is not None) == (name == "dni-aux")


def test_recompute_runs_the_model_in_pieces():
    options = RunOptions(trainer="bptt", recompute=True, hidden=3)
    wrapped = way_of(options).wrap_model(options, build_model(options, 2, 2))
    assert isinstance(wrapped, Checkpointed)


def test_every_synthesizer_has_its_line_of_help():
    assert tuple(KINDS) == get_args(SynthesizerName)
    assert {*LEARNING, "none"} == set(KINDS)
