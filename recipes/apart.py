"""Runs whose parts train apart (``--apart``): layers of a net, or levels of a hierarchy.

Such a run is cut into *sections* of several chunks or batches. Inside of a section the parts go
ahead of each other. After it each process has the whole model, and all parts have learned from the
same data. So the model can be evaluated and saved there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.launched import launched
from seqdni.recipes.option_field import option

if TYPE_CHECKING:
    from seqdni.recipes.session import Session

DRAWS = "the parts would draw from one generator, in an order that depends on their speed"
STOPS = (
    "Otherwise Ctrl-C and --max-seconds stop the run only at the end of a section, which is as "
    "long as --log-every says"
)


def apart_option(only: Callable[[Any], bool], when: str) -> Any:
    """The option ``--apart``.

    Args:
        only: takes all options, and returns whether this one has an effect.
        when: the condition in words.
    """
    return option(
        None,
        "how the levels train at the same time. processes: each in a process of its own, which "
        "torchrun starts; null: one after another. " + STOPS,
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


def check_launched(options: Any, parts: int, what: str) -> None:
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
    if apart and device_of(options).type != "cpu":
        raise RunError("--apart processes is for the CPU so far; give --device cpu")


def check_not_dealt(options: Any, parts: int) -> None:
    """Refuse several processes without ``--apart``, for a model whose rows they cannot share.

    Args:
        options: of a run that begins or goes on.
        parts: of its model.

    Raises:
        RunError: there are several, and they do not train a part each; the message says what to do.
    """
    processes = launched()
    if processes > 1 and options.apart != "processes":
        (option_apart,) = (each for each in fields(options) if each.name == "apart")
        can_be = option_apart.metadata["only"](options)
        give = f"give --apart processes, which needs {parts} of them for this model, or "
        raise RunError(
            f"{processes} processes were started, and --apart is not given; "
            f"{give if can_be else ''}start the run without torchrun"
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
