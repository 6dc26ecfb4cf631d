"""The curriculum: decides when a task becomes more difficult."""

from seqdni.corpora.tasks.task import Difficulty, EpisodicTask


def next_difficulty(
    task: EpisodicTask, difficulty: Difficulty, error_bits: float, threshold: float = 0.15
) -> Difficulty:
    """The difficulty to go on with: `task.advance(difficulty)` if the error is below the threshold.

    Args:
        task: has the difficulties in their order.
        difficulty: the difficulty that was trained on.
        error_bits: its error, in bits; NaN never advances.
        threshold: in the same bits, > 0.

    Returns:
        `difficulty`, or the one after it.

    Raises:
        ValueError: `threshold` is not positive, or the task has no such difficulty.

    Example:
        >>> from seqdni.corpora.tasks.copying import CopyTask
        >>> next_difficulty(CopyTask(), Difficulty(3), error_bits=0.1)
        Difficulty(length=4, repeats=1)
        >>> next_difficulty(CopyTask(), Difficulty(3), error_bits=0.2)
        Difficulty(length=3, repeats=1)

    Source: Jaderberg et al. (arXiv 1608.05343), the curriculum of the copy tasks.
    """
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}, expected > 0 bits: an error is never below 0")
    task.check(difficulty)
    return task.advance(difficulty) if error_bits < threshold else difficulty
