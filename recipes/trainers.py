"""A table of the ways of training that ``--trainer`` names, with one entry for each.

An entry has all in which a way differs from the others; which options do not go together is checked
in the files of the options. To add a way, add its name to :data:`FlatTrainer` and an entry to
:data:`TRAINERS`. If it has options of its own, add these to common_options.py and help_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import seqdni
from seqdni.recipes.synthesizers import build_boundary, synthetic_gradients

if TYPE_CHECKING:
    from seqdni import (
        Influence,
        Model,
        Overlap,
        RandomTruncation,
        Reweighted,
        SequenceModel,
        SyntheticGradients,
    )
    from seqdni.recipes.known_answers import KnownAnswers

FlatTrainer: TypeAlias = Literal[
    "bptt", "tbptt", "random", "overlap", "influence", "dni", "dni-aux"
]
Credit: TypeAlias = "Influence | Overlap | SyntheticGradients | None"


def _unchanged(_options: Any, part: Any) -> Any:
    return part


def _cut_at_random(options: Any, stream: Any) -> RandomTruncation:
    return seqdni.RandomTruncation(stream, options.cut_probability, options.seed)


def _reweighted(options: Any, model: SequenceModel) -> Reweighted:
    return seqdni.Reweighted(model, options.chunk_len, options.cut_probability)


def _recomputed(options: Any, model: SequenceModel) -> Model:
    return seqdni.Checkpointed(model, options.chunk_len) if options.recompute else model


def _no_credit(_options: Any, _model: SequenceModel, _known: KnownAnswers | None = None) -> None:
    return None


def _overlap(options: Any, _model: SequenceModel, _known: KnownAnswers | None = None) -> Overlap:
    return seqdni.Overlap(options.history)


def _influence(
    _options: Any, _model: SequenceModel, _known: KnownAnswers | None = None
) -> Influence:
    return seqdni.Influence()


def _synthetic(
    options: Any, model: SequenceModel, known: KnownAnswers | None = None, aux: bool = False
) -> SyntheticGradients:
    size = seqdni.state_size(model.initial_state(1))
    boundary = build_boundary(options, size, aux=aux, known=known)
    return synthetic_gradients(options, boundary)


class Way(NamedTuple):
    """A way of training.

    Args:
        help: its description in ``--help``; empty for a way that only trains hierarchies, or
            feed-forward nets.
        own_options: names of the options that have an effect with this way alone.
        whole_episodes: whether the chunks are whole episodes, so that nothing is truncated.
        synthetic: whether synthesizers predict gradients.
        aux: whether the synthesizer has the auxiliary task.
        wrap_stream: takes the options and a stream of chunks, and returns the stream to train on.
        wrap_model: takes the options and a model, and returns the model to train.
        credit: takes the options and a model, and returns the ``credit`` of
            :class:`seqdni.Trainer`.
        cuts_per_chunk: takes the options, and returns the mean number of cuts at a chunk's end,
            from 0 to 1.
        mode: the mode of :class:`seqdni.HierarchyTrainer`; None: this way is for one network alone.
    """

    help: str = ""
    own_options: tuple[str, ...] = ()
    whole_episodes: bool = False
    synthetic: bool = False
    aux: bool = False
    wrap_stream: Callable[[Any, Any], Any] = _unchanged
    wrap_model: Callable[[Any, Any], Any] = _unchanged
    credit: Callable[..., Credit] = _no_credit
    cuts_per_chunk: Callable[[Any], float] = lambda _options: 1.0
    mode: Literal["joint", "dni", "no-feedback"] | None = None


TRAINERS = {
    "bptt": Way(
        "full back-propagation through time (BPTT) over whole episodes",
        own_options=("recompute",),
        whole_episodes=True,
        wrap_model=_recomputed,
    ),
    "tbptt": Way("BPTT that is truncated at the ends of chunks", mode="no-feedback"),
    "random": Way(
        "BPTT truncated at random boundaries, and reweighted to be unbiased",
        own_options=("cut_probability",),
        wrap_stream=_cut_at_random,
        wrap_model=_reweighted,
        cuts_per_chunk=lambda options: options.cut_probability,
    ),
    "overlap": Way("tbptt over overlapping chunks", own_options=("history",), credit=_overlap),
    "influence": Way(
        "tbptt that carries what the weights did to the state (their influence) past the ends of "
        "chunks: SnAp-1 for one layer of lstm or gru, exact for --core lru",
        credit=_influence,
    ),
    "dni": Way(
        "tbptt with synthetic gradients at the ends of chunks",
        synthetic=True,
        credit=_synthetic,
        mode="dni",
    ),
    "dni-aux": Way(
        "dni, whose synthesizer also learns to predict the next synthetic gradient",
        synthetic=True,
        aux=True,
        credit=partial(_synthetic, aux=True),
    ),
    # The next two are only for hierarchies.
    "joint": Way(mode="joint"),
    "no-feedback": Way(mode="no-feedback"),
    # The next four are only for feed-forward nets, as dni is too.
    "backprop": Way(),
    "none": Way(),
    "cdni": Way(),
    "unlock": Way(),
}
SYNTHETIC = tuple(name for name, way in TRAINERS.items() if way.synthetic)


def way_of(options: Any) -> Way:
    """The way of training that ``--trainer`` names.

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
    """The chunks that the trainer is given.

    Args:
        options: of the run.
        stream: a stream of chunks.

    Returns:
        The stream itself, or its whole episodes where nothing is truncated.
    """
    return seqdni.whole_episodes(stream) if way_of(options).whole_episodes else stream


def only_with_own_trainer(option_name: str) -> dict[str, Any]:
    """The condition of an option that has an effect with some ways of training only.

    Args:
        option_name: the option's name, as it stands in the ``own_options`` of these ways.

    Returns:
        The arguments ``only`` and ``when`` of :func:`seqdni.recipes.option_field.option`.

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
