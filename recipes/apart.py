"""Runs whose parts train apart (``--apart``): layers of a net, or levels of a hierarchy.

Such a run is cut into *sections* of several chunks or batches. Inside of a section the parts go
ahead of each other. After it each process has the whole model, and all parts have learned from the
same data. So the model can be evaluated and saved there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.processes import launched
from seqdni.recipes.session import Session

DRAWS = "the parts would draw from one generator, in an order that depends on their speed"


def refuse(given: bool, name: str, reason: str) -> None:
    """Refuse an option that does not go with ``--apart``.

    Args:
        given: whether it was given.
        name: of the option.
        reason: why it does not go.

    Raises:
        RunError: it was given.
    """
    if given:
        raise RunError(f"{name} does not go with --apart: {reason}; leave one of them out")


def check_processes(options: Any, parts: int, what: str) -> None:
    """Refuse a number of processes that is not that of the parts, and a GPU.

    Args:
        options: of a run that begins or goes on.
        parts: of its model.
        what: the name of a part.

    Raises:
        RunError: something does not fit; the message says what to give.
    """
    processes, apart = launched(), options.apart == "processes"
    if apart and processes != parts:
        raise RunError(
            f"--apart processes runs each {what} in a process of its own, so it needs {parts} for "
            f"this model, got {processes}; start it with: torchrun --nproc-per-node {parts} "
            f"$(which seqdni) run {options.recipe} --apart processes ..."
        )
    if processes > 1 and not apart:
        raise RunError(
            f"{processes} processes were started; give --apart processes, which needs {parts} of "
            "them for this model, or start the run without torchrun"
        )
    if apart and device_of(options).type != "cpu":
        raise RunError("--apart processes is for the CPU so far; give --device cpu")


def section_length(
    session: Session, due: int, tokens: int, same: Callable[[float], bool] = lambda _: True
) -> int:
    """How many chunks or batches a section has.

    Args:
        session: of the run, with the whole model.
        due: how many there are until the next row of metrics.
        tokens: of each. Each makes one update at most.
        same: whether they are trained in the same way when a part of the run is done.

    Returns:
        As many as ``due``, or fewer if the run ends or changes before.
    """
    count = 1
    while count < due and (done := session.fraction(count, count * tokens)) < 1 and same(done):
        count += 1
    return count
