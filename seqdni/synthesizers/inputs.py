"""What a synthesizer reads, and what is refused there.

Shapes: B rows, S features of a packed state, K features of a condition.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def check_width(state_BS: Float[Tensor, "B S"], state_size: int) -> None:
    """Refuse a state of another width than a synthesizer was built for.

    Args:
        state_BS: the packed state.
        state_size: S that the synthesizer was built with.

    Raises:
        ValueError: the widths differ; the message has both.
    """
    _refuse_width(state_size, state_BS.shape[1])


def check_state_size(synthesizer: object, size: int) -> None:
    """Refuse a synthesizer that was built for states of another width.

    Args:
        synthesizer: one without an attribute ``state_size`` is accepted.
        size: S of the states that it will read.

    Raises:
        ValueError: the widths differ; the message has both.
    """
    _refuse_width(getattr(synthesizer, "state_size", size), size)


def _refuse_width(built_for: int, got: int) -> None:
    if got != built_for:
        raise ValueError(
            f"the synthesizer was built with state_size={built_for}, and the state has {got} "
            f"features a row; build it with state_size={got}, which is seqdni.state_size(state)"
        )


def check_condition(condition_BK: Float[Tensor, "B K"] | None, condition_size: int) -> None:
    """Refuse a condition of another width than a synthesizer was built for.

    Args:
        condition_BK: the condition, or None.
        condition_size: K that the synthesizer was built with; 0 for none.

    Raises:
        ValueError: the widths differ; the message has both.
    """
    got = 0 if condition_BK is None else condition_BK.shape[1]
    if got != condition_size:
        raise ValueError(
            f"the synthesizer was built with condition_size={condition_size}, got "
            f"{got or 'no'} condition features"
        )


def refuse_aux(next_predicted_BS: Float[Tensor, "B S"] | None) -> None:
    """Refuse the target of an Aux head, for a synthesizer that has none.

    Args:
        next_predicted_BS: the target, or None.

    Raises:
        ValueError: there is one.
    """
    if next_predicted_BS is not None:
        raise ValueError("this synthesizer has no Aux head")


def with_condition(
    state_BS: Float[Tensor, "B S"], condition_BK: Float[Tensor, "B K"] | None, condition_size: int
) -> Float[Tensor, "B features"]:
    """The input of a synthesizer: the state and, if it was built with one, the condition.

    Args:
        state_BS: the packed state.
        condition_BK: the condition, or None.
        condition_size: K that the synthesizer was built with; 0 for none.

    Returns:
        ``[B, S + K]``.

    Raises:
        ValueError: the condition has not the width ``condition_size``.

    Example:
        >>> with_condition(torch.zeros(2, 3), torch.ones(2, 1), condition_size=1).shape
        torch.Size([2, 4])
    """
    check_condition(condition_BK, condition_size)
    return state_BS if condition_BK is None else torch.cat([state_BS, condition_BK], dim=1)
