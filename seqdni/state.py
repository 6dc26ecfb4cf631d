"""Recurrent state as a plain value: a tensor, or a tuple or dictionary of states.

The tensors of a state are called its *leaves*. Every leaf is ``[L, B, H]``, as in ``nn.LSTM``, or
``[B, H]``, as in a single cell: the row axis is always the second to last.

Shapes: L layers, B rows of the batch, H features of a leaf, S = all features of one row together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

State: TypeAlias = Tensor | tuple[Any, ...] | dict[str, Any]  # of states again
"""A tensor ``[L, B, H]`` or ``[B, H]``, or a tuple, a NamedTuple or a dictionary of states."""


class LSTMState(NamedTuple):
    """State of an LSTM: the hidden state, which is also its output, and the cell state.

    Both are ``[L, B, H]``.
    """

    hidden: Tensor
    cell: Tensor


def leaves(state: State) -> list[Tensor]:
    """The tensors of a state, in order.

    Args:
        state: any state.

    Returns:
        Its tensors, depth first.

    Raises:
        TypeError: a part of it is neither a tensor nor a tuple nor a dictionary.

    Example:
        >>> [tuple(leaf.shape) for leaf in leaves((torch.zeros(1, 2, 3), torch.zeros(2, 4)))]
        [(1, 2, 3), (2, 4)]
    """
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in leaves(part)]
    if isinstance(state, Mapping):
        return [leaf for part in state.values() for leaf in leaves(part)]
    raise TypeError(
        f"got {_kind(state)} in a state, expected a tensor, or a tuple or dictionary of states; "
        "return tensors [L, B, H] or [B, H], or tuples of them, from initial_state()"
    )


def _kind(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def map_state(fn: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply a function to every leaf and keep the structure (a NamedTuple stays a NamedTuple).

    Args:
        fn: function of one leaf (and the matching leaf of each of ``others``).
        state: the state that gives the structure.
        others: states of the same structure.

    Returns:
        A state of the same structure.

    Example:
        >>> map_state(torch.add, LSTMState(torch.ones(1), torch.zeros(1)), (torch.ones(1),) * 2)
        LSTMState(hidden=tensor([2.]), cell=tensor([1.]))
    """
    if isinstance(state, Tensor):
        return fn(state, *others)
    if isinstance(state, tuple):
        parts = [map_state(fn, *branch) for branch in zip(state, *others, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    leaves(state)  # refuses what is no state
    return {
        name: map_state(fn, state[name], *(other[name] for other in others))  # type: ignore
        for name in list(state)
    }


def detach(state: State) -> State:
    """The same values without a graph.

    Args:
        state: any state.

    Returns:
        The detached state, which shares its storage with the original.

    Example:
        >>> detach(torch.ones(1, 1, requires_grad=True)).requires_grad
        False
    """
    return map_state(torch.Tensor.detach, state)


@overload
def cut(state: State) -> State: ...
@overload
def cut(state: None) -> None: ...
def cut(state: State | None) -> State | None:
    """Cut the graph at a state. Its new leaves record the gradient that arrives as ``.grad``.

    Args:
        state: the state at the end of the chunk before. None, with which torch's networks start
            from zeros, stays None.

    Returns:
        The same values as graph leaves, to start the next chunk from. After the backward pass of
        that chunk, :func:`target_grad` reads the gradient with respect to them.

    Example:
        >>> start = cut(torch.ones(1, 2))
        >>> (3 * start).sum().backward()
        >>> target_grad(start)
        tensor([[3., 3.]])
    """
    if state is None:
        return None
    return map_state(lambda leaf: leaf.detach().requires_grad_(), state)


def target_grad(start: State) -> Float[Tensor, "B S"]:
    """The packed gradient that arrived at a state made by :func:`cut`; zero where none did.

    Args:
        start: the state that a chunk started from, after that chunk's backward pass.

    Returns:
        ``d objective / d start`` as ``[B, S]``, in the units of the objective.

    Raises:
        ValueError: the state was not made by :func:`cut`, so that no gradient can arrive.

    Example:
        >>> target_grad(cut(torch.ones(2, 3))).sum()
        tensor(0.)
    """
    inside = leaves(start)
    if not all(leaf.is_leaf and leaf.requires_grad for leaf in inside):
        raise ValueError(
            "this state records no gradient; got one that was detached or computed, expected one "
            "that was made by cut(): start = cut(state), then run the chunk from start"
        )
    return pack(tuple(or_zeros([leaf.grad for leaf in inside], inside)))


def or_zeros(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Replace missing gradients by zeros.

    Args:
        grads: as ``torch.autograd.grad`` returns them with ``allow_unused=True``.
        like: the tensors that they are gradients of.

    Returns:
        A gradient for each tensor.

    Example:
        >>> or_zeros([None], [torch.ones(2)])
        [tensor([0., 0.])]
    """
    pairs = zip(grads, like, strict=True)
    return [torch.zeros_like(x) if grad is None else grad for grad, x in pairs]


def reset_rows(state: State, rows_B: Bool[Tensor, " B"], initial: State) -> State:
    """Restart some rows: ``where(rows, initial, state)``, row by row.

    Args:
        state: the state before the reset.
        rows_B: True for the rows that restart.
        initial: the state that they restart from, of the same structure.

    Returns:
        The new state. No gradient flows from a restarted row into ``state``.

    Example:
        >>> reset_rows(torch.ones(1, 2, 1), torch.tensor([True, False]), torch.zeros(1, 2, 1))
        tensor([[[0.],
                 [1.]]])
    """
    return map_state(lambda old, new: torch.where(rows_B[:, None], new, old), state, initial)


def pack(state: State) -> Float[Tensor, "B S"]:
    """Put a state into one matrix ``[B, S]``, the form that a synthesizer reads and predicts.

    Args:
        state: leaves ``[L, B, H]`` or ``[B, H]``.

    Returns:
        ``[B, S]``: leaf after leaf, each flattened with its rows first.

    Raises:
        ValueError: a leaf has no row axis or more than three axes, or the leaves disagree about B.

    Example:
        >>> pack(LSTMState(torch.zeros(2, 5, 3), torch.ones(2, 5, 3))).shape
        torch.Size([5, 12])
    """
    parts = leaves(state)
    if any(leaf.dim() not in (2, 3) for leaf in parts) or len({x.shape[-2] for x in parts}) != 1:
        raise ValueError(
            f"got a state of shapes {[tuple(leaf.shape) for leaf in parts]}, expected [L, B, H] or "
            "[B, H] with one B: the rows are the second to last axis. Give an unbatched state an "
            "axis of one row, and flatten features of more axes: x.flatten(1) for [B, ...]"
        )
    return torch.cat([_rows_first(leaf) for leaf in parts], dim=1)


def _rows_first(leaf: Tensor) -> Tensor:
    """A leaf as ``[B, L * H]``; what a chunk does often is one operation here."""
    if leaf.dim() == 2:
        return leaf
    return leaf.squeeze(0) if len(leaf) == 1 else leaf.movedim(-2, 0).flatten(1)


def unpack(packed_BS: Float[Tensor, "B S"], like: State) -> State:
    """The inverse of :func:`pack`.

    Args:
        packed_BS: a packed state, or a gradient of the same shape.
        like: a state of the structure, shapes and dtypes wanted.

    Returns:
        A state like ``like`` with the values of ``packed_BS``.

    Raises:
        ValueError: ``packed_BS`` is not as wide as ``like`` is when packed.

    Example:
        >>> state = LSTMState(torch.randn(2, 5, 3), torch.randn(2, 5, 3))
        >>> unpack(pack(state), state).cell.equal(state.cell)
        True
    """
    widths = [leaf.numel() // leaf.shape[-2] for leaf in leaves(like)]
    rows = leaves(like)[0].shape[-2]
    if packed_BS.shape != (rows, sum(widths)):
        raise ValueError(
            f"got a packed state {list(packed_BS.shape)}, expected {[rows, sum(widths)]}, which is "
            "[rows, features] of this state"
        )
    parts = iter(packed_BS.split(widths, dim=1))

    def restore(leaf: Tensor) -> Tensor:
        part = next(parts)
        if leaf.dim() == 3:
            layers = len(leaf)
            part = (
                part.unsqueeze(0) if layers == 1 else part.unflatten(1, (layers, -1)).movedim(1, 0)
            )
        return part if part.dtype == leaf.dtype else part.to(leaf.dtype)

    return map_state(restore, like)


def in_full_precision(x: Tensor) -> Tensor:
    """Convert bfloat16 to float32; return other types as they are.

    Args:
        x: from a model, perhaps under autocast.

    Example:
        >>> in_full_precision(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.float() if x.dtype == torch.bfloat16 else x


def state_size(state: State) -> int:
    """S, the number of numbers in the state of one row.

    Args:
        state: any state.

    Returns:
        The width of ``pack(state)``.

    Example:
        >>> state_size(LSTMState(torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)))
        12
    """
    return sum(leaf.numel() // leaf.shape[-2] for leaf in leaves(state))
