"""Levels of a hierarchy in processes of their own (``--apart processes``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from seqdni import HierarchyChunk, HierarchyTrainer, train_levels_in_processes
from seqdni.recipes.apart import section_length
from seqdni.recipes.option_field import option
from seqdni.recipes.session import Session


def apart_option(only: Callable[[Any], bool], when: str) -> Any:
    """The option ``--apart``.

    Args:
        only: takes all options, and returns whether this one has an effect.
        when: the condition in words.
    """
    return option(
        None,
        "how the levels train at the same time. processes: each in a process of its own, which "
        "torchrun starts; null: one after another",
        only=only,
        when=when,
    )


def staleness_option() -> Any:
    """The option ``--staleness``."""
    return option(
        0,
        "ticks by which a level lags behind the level above: so old are the contexts that it uses, "
        "and what its synthesizer of messages has learned. 0: the result is that of levels one "
        "after another, bit for bit",
        at_least=0,
        only=lambda options: options.apart is not None,
        when="--apart processes",
    )


def step_of(options: Any, trainer: HierarchyTrainer) -> Callable[..., None] | None:
    """What trains on a section; None: the levels train one after another.

    Args:
        options: of the run.
        trainer: built from them.
    """
    if options.apart is None:
        return None

    def step(section: Iterable[HierarchyChunk]) -> None:
        train_levels_in_processes(trainer, section, staleness=options.staleness)

    return step


def sections(
    session: Session, chunks: Iterable[HierarchyChunk], due: Callable[[], int]
) -> Iterator[Any]:
    """The chunks of a run, in sections where the levels train apart.

    Args:
        session: of the run.
        chunks: of its stream.
        due: how many chunks there are until the next row of metrics.

    Yields:
        Chunks, or an iterator over the chunks of a section.
    """
    if session.options.apart is None:
        yield from chunks
        return
    stream, tokens = iter(chunks), session.options.batch * session.options.chunk_len
    while True:
        yield islice(stream, section_length(session, due(), tokens))
