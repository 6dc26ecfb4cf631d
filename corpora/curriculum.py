"""When to make the task longer."""

from seqdni.corpora.task import EpisodicTask, Level


def next_level(
    task: EpisodicTask, level: Level, error_bits: float, threshold: float = 0.15
) -> Level:
    """The next level once the error is small: `advance(level)` if error < threshold, else `level`.

    Args:
        task: knows what follows a level.
        level: the level that was played.
        error_bits: its error, in bits; NaN never advances.
        threshold: in the same bits, > 0.

    Returns:
        `level` or its successor.

    Raises:
        ValueError: `threshold` is not positive, or the task has no such level.

    Example:
        >>> from seqdni.corpora.copying import CopyTask
        >>> next_level(CopyTask(), Level(3), error_bits=0.1)
        Level(length=4, repeats=1)
        >>> next_level(CopyTask(), Level(3), error_bits=0.2)
        Level(length=3, repeats=1)

    Source: Jaderberg et al. (arXiv 1608.05343), the curriculum of the copy tasks.
    """
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}, expected > 0 bits: an error is never below 0")
    task.check(level)
    return task.advance(level) if error_bits < threshold else level
