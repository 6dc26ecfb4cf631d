"""Shows episodes of tokens as aligned lines of text.

Shapes: L steps of an episode.
"""

import string
from collections.abc import Callable

from jaxtyping import Bool, Int64
from torch import Tensor


def glyph(symbol: int, symbols: int) -> str:
    """A digit or a letter for a symbol; where there are too many symbols for that, e.g. `s70`.

    Args:
        symbol: in 0..symbols - 1.
        symbols: number of kinds.

    Returns:
        A short text.

    Example:
        >>> glyph(10, symbols=20), glyph(10, symbols=100)
        ('a', 's10')
    """
    letters = string.digits + string.ascii_letters
    return letters[symbol] if symbols <= len(letters) else f"s{symbol}"


def aligned(
    inputs: list[str],
    name: Callable[[int], str],
    targets_L: Int64[Tensor, " L"],
    mask_L: Bool[Tensor, " L"],
    outputs_L: Int64[Tensor, " L"] | None,
) -> str:
    """Lines of inputs and targets, and perhaps of outputs with a caret under each wrong one.

    Args:
        inputs: the text of the input at each step.
        name: returns the text of a target or an output.
        targets_L: the right answers.
        mask_L: the steps whose targets and outputs are shown.
        outputs_L: the answers of a model, or None.

    Returns:
        Two or four lines.

    Example:
        >>> import torch
        >>> targets_L, outputs_L = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])
        >>> print(aligned(["a", "b", "c"], str, targets_L, targets_L > 0, outputs_L))
        input  a b c
        target   1 2
        output   1 1
        error      ^
    """

    def scored(tokens_L: Tensor) -> list[str]:
        pairs = zip(tokens_L.tolist(), mask_L.tolist(), strict=True)
        return [name(token) if on else "" for token, on in pairs]

    lines = {"input": inputs, "target": scored(targets_L)}
    if outputs_L is not None:
        lines["output"] = scored(outputs_L)
        wrong_L = mask_L & (outputs_L != targets_L)
        lines["error"] = ["^" if wrong else "" for wrong in wrong_L.tolist()]
    width = max(len(cell) for cells in lines.values() for cell in cells)
    return "\n".join(
        " ".join([f"{name:6}", *(f"{cell:>{width}}" for cell in cells)]).rstrip()
        for name, cells in lines.items()
    )
