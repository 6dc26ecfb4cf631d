"""Hooks of a module, which run when it is called, and only then."""

from __future__ import annotations

from torch import nn


def has_hooks(module: nn.Module) -> bool:
    """Whether something happens when a module is called, besides its own computation.

    Pruning and the older weight normalisation compute the weights in such a hook. So a function
    that takes a module's weights and computes with them itself must not do so where there is one.

    Args:
        module: any module.

    Example:
        >>> from torch.nn.utils import prune
        >>> layer = nn.Linear(2, 2)
        >>> has_hooks(layer), has_hooks(prune.l1_unstructured(layer, "weight", 1))
        (False, True)
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
