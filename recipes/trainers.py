"""The ways of training that ``--trainer`` names, one entry in one table for each.

An entry says in what a way differs from the others. Which options do not go together is checked
where the options are. To add a way, add its name to :data:`FlatTrainer` and an entry to
:data:`TRAINERS`. If it has options of its own, add these to options.py and help_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from seqdni import (
    Checkpointed,
    Model,
    Overlap,
    RandomTruncation,
    Reweighted,
    SequenceModel,
    SyntheticGradients,
    state_size,
    whole_episodes,
)
from seqdni.recipes.synthesizers import build_boundary, synthetic_gradients

FlatTrainer: TypeAlias = Literal["bptt", "tbptt", "random", "overlap", "dni", "dni-aux"]
Credit: TypeAlias = Overlap | SyntheticGradients | None


def _unchanged(_options: Any, part: Any) -> Any:
    return part


def _cut_at_random(options: Any, stream: Any) -> RandomTruncation:
    return RandomTruncation(stream, options.cut_probability, options.seed)


def _reweighted(options: Any, model: SequenceModel) -> Reweighted:
    return Reweighted(model, options.chunk_len, options.cut_probability)


def _recomputed(options: Any, model: SequenceModel) -> Model:
    return Checkpointed(model, options.chunk_len) if options.recompute else model


def _no_credit(_options: Any, _model: SequenceModel) -> None:
    return None


def _overlap(options: Any, _model: SequenceModel) -> Overlap:
    return Overlap(options.history)


def _synthetic(options: Any, model: SequenceModel, aux: bool = False) -> SyntheticGradients:
    boundary = build_boundary(options, state_size(model.initial_state(1)), aux=aux)
    return synthetic_gradients(options, boundary)


class Way(NamedTuple):
    """A way of training.

    Args:
        help: what ``--help`` says of it, where one network is trained.
        own_options: names of the options that have an effect with this way alone.
        whole_episodes: whether the chunks are whole episodes, so that nothing is truncated.
        synthetic: whether synthesizers predict gradients.
        aux: whether the synthesizer has the auxiliary task.
        wrap_stream: from the options and a stream of chunks to the stream that is trained on.
        wrap_model: from the options and a model to the model that is trained.
        credit: from the options and a model to what carries gradients over a chunk's end.
        cuts_per_chunk: from the options to the mean number of cuts at a chunk's end, 0 to 1.
        mode: of :class:`seqdni.HierarchyTrainer`; None where a hierarchy cannot be trained so.
    """

    help: str = ""
    own_options: tuple[str, ...] = ()
    whole_episodes: bool = False
    synthetic: bool = False
    aux: bool = False
    wrap_stream: Callable[[Any, Any], Any] = _unchanged
    wrap_model: Callable[[Any, Any], Any] = _unchanged
    credit: Callable[[Any, Any], Credit] = _no_credit
    cuts_per_chunk: Callable[[Any], float] = lambda _options: 1.0
    mode: Literal["joint", "dni", "no-feedback"] | None = None


TRAINERS = {
    "bptt": Way(
        "full BPTT over whole episodes",
        own_options=("recompute",),
        whole_episodes=True,
        wrap_model=_recomputed,
    ),
    "tbptt": Way("truncated BPTT", mode="no-feedback"),
    "random": Way(
        "TBPTT cut at random boundaries, reweighted to be unbiased",
        own_options=("cut_probability",),
        wrap_stream=_cut_at_random,
        wrap_model=_reweighted,
        cuts_per_chunk=lambda options: options.cut_probability,
    ),
    "overlap": Way("TBPTT over overlapping chunks", own_options=("history",), credit=_overlap),
    "dni": Way(
        "TBPTT with synthetic gradients at the chunk boundaries",
        synthetic=True,
        credit=_synthetic,
        mode="dni",
    ),
    "dni-aux": Way(
        "dni with the auxiliary task",
        synthetic=True,
        aux=True,
        credit=partial(_synthetic, aux=True),
    ),
    # The next two are for networks at several rates alone.
    "joint": Way(mode="joint"),
    "no-feedback": Way(mode="no-feedback"),
}
SYNTHETIC = tuple(name for name, way in TRAINERS.items() if way.synthetic)


def way_of(options: Any) -> Way:
    """The way of training that the options name.

    Args:
        options: of a run.

    Returns:
        Its entry in the table.

    Example:
        >>> from types import SimpleNamespace
        >>> way_of(SimpleNamespace(trainer="dni-aux")).aux
        True
    """
    return TRAINERS[options.trainer]


def chunks_of(options: Any, stream: Any) -> Iterable[Any]:
    """What the trainer takes one after another from a stream.

    Args:
        options: of the run.
        stream: of chunks.

    Returns:
        The stream itself, or its whole episodes where nothing is truncated.
    """
    return whole_episodes(stream) if way_of(options).whole_episodes else stream


def only_with_own_trainer(option_name: str) -> dict[str, Any]:
    """When an option has an effect that belongs to some ways of training.

    Args:
        option_name: in their ``own_options``.

    Returns:
        The arguments ``only`` and ``when`` of :func:`seqdni.recipes.option.option`.

    Example:
        >>> only_with_own_trainer("history")["when"]
        '--trainer overlap'
    """
    names = [name for name, way in TRAINERS.items() if option_name in way.own_options]
    assert names, f"no way of training has {option_name} among its own_options"
    return {
        "only": lambda options: options.trainer in names,
        "when": f"--trainer {' or '.join(names)}",
    }
