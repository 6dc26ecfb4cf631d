"""Runs whose parts train apart (``--apart``): layers of a net, or levels of a hierarchy.

Such a run is cut into *sections* of several chunks or batches. Inside of a section the parts go
ahead of each other. After it each process has the whole model, and all parts have learned from the
same data. So the model can be evaluated and saved there.
"""

from __future__ import annotations

from collections.abc import Callable

from seqdni.recipes.errors import RunError
from seqdni.recipes.processes import launched
from seqdni.recipes.session import Session


def check_number(apart: str | None, parts: int, what: str, recipe: str) -> None:
    """Refuse a number of processes that is not that of the parts.

    Args:
        apart: the option of that name.
        parts: how many there are.
        what: the name of a part.
        recipe: its name.

    Raises:
        RunError: the number does not fit; the message has the command that does.
    """
    processes = launched()
    if apart == "processes" and processes != parts:
        raise RunError(
            f"--apart processes runs each {what} in a process of its own, so it needs {parts} for "
            f"this model, got {processes}; start it with: torchrun --nproc-per-node {parts} "
            f"$(which seqdni) run {recipe} --apart processes ..."
        )
    if apart != "processes" and processes > 1:
        raise RunError(
            f"{processes} processes were started; give --apart processes, which needs {parts} of "
            "them for this model, or start the run without torchrun"
        )


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
