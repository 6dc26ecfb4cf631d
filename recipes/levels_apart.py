"""Levels of a hierarchy in processes of their own (``--apart processes``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from seqdni import HierarchyChunk, HierarchyTrainer, train_levels_in_processes
from seqdni.recipes.apart import section_length
from seqdni.recipes.session import Session


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
