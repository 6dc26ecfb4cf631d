r"""The gradients of a small network of linear layers, without autograd.

For a synthesizer, autograd takes longer to prepare the operations than the processor to compute
them. Its layers are few and of two kinds, so their gradients are written out here:

.. math:: z_{i+1} = \sigma(W_i z_i + b_i), \quad
          d_i = \sigma'(z_{i+1}) \odot \partial L / \partial z_{i+1}, \quad
          \partial L / \partial W_i = d_i^T z_i, \quad \partial L / \partial z_i = d_i W_i

Shapes: B rows, D inputs of a layer, F features after the last layer, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqdni.module_hooks import has_hooks

_relu_backward = torch.ops.aten.threshold_backward
_tanh_backward = torch.ops.aten.tanh_backward


def is_plain(trunk: nn.Sequential, heads: Sequence[nn.Module]) -> bool:
    """Whether the functions of this file know a network's gradients.

    Args:
        trunk: the layers before the heads.
        heads: read the trunk's features.

    Returns:
        Whether all are linear layers as torch makes them, those of the trunk with ReLU or Tanh
        after each.
    """
    layers = list(trunk)
    return (
        len(layers) % 2 == 0
        and all(_is_usual(each, nn.Linear) for each in (*layers[::2], *heads))
        and all(_is_usual(each, nn.ReLU, nn.Tanh) for each in layers[1::2])
    )


def _is_usual(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is one of some kinds, with its own parameters and without hooks."""
    own, kind = module._parameters, type(module)  # a parametrized weight is not among its own
    has_all = own.get("weight") is not None and own.get("bias") is not None
    return kind in kinds and (has_all or kind is not nn.Linear) and not has_hooks(module)


def activations(trunk: nn.Sequential, x_BD: Tensor) -> list[Tensor]:
    """The input of a plain trunk, and what comes after each activation.

    Args:
        trunk: for which :func:`is_plain` is true.
        x_BD: its input.

    Returns:
        The input, then the outputs of the activations; the last one is the trunk's output.
    """
    layers, found = list(trunk), [x_BD]
    for linear, activation in zip(layers[::2], layers[1::2], strict=True):
        y = functional.linear(found[-1], linear.weight, linear.bias)  # type: ignore[arg-type]
        found.append(y.relu_() if type(activation) is nn.ReLU else y.tanh_())
    return found


def add_gradients(
    trunk: nn.Sequential,
    heads: Sequence[nn.Linear],
    activated: Sequence[Tensor],
    grads_of_heads: Sequence[Tensor],
) -> None:
    """Add the gradients of all weights and biases to what ``.grad`` has.

    Args:
        trunk: for which :func:`is_plain` is true.
        heads: at least one.
        activated: from :func:`activations`.
        grads_of_heads: the gradient of the output of each head, ``[B, O]``.

    Example:
        >>> trunk, head = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 1)
        >>> x = torch.randn(5, 2)
        >>> head(trunk(x)).sum().backward()
        >>> expected, trunk[0].weight.grad = trunk[0].weight.grad, None
        >>> with torch.no_grad():
        ...     add_gradients(trunk, [head], activations(trunk, x), [torch.ones(5, 1)])
        >>> torch.allclose(trunk[0].weight.grad, expected)
        True
    """
    for head, grad_BO in zip(heads, grads_of_heads, strict=True):
        _add(head, grad_BO, activated[-1])
    layers = list(trunk)
    if not layers:
        return
    first, *others = zip(heads, grads_of_heads, strict=True)
    d = first[1] @ first[0].weight
    for head, grad_BO in others:
        d.addmm_(grad_BO, head.weight)
    for i in reversed(range(len(layers) // 2)):
        linear, activation, z = layers[2 * i], layers[2 * i + 1], activated[i + 1]
        assert isinstance(linear, nn.Linear)
        d = _relu_backward(d, z, 0) if type(activation) is nn.ReLU else _tanh_backward(d, z)
        _add(linear, d, activated[i])
        if i:
            d = d @ linear.weight


def mean_square(x_BO: Tensor, valid_B: Tensor | None) -> Tensor:
    """The mean of ``x^2`` over the valid rows; 0 if there is none.

    Args:
        x_BO: errors.
        valid_B: rows to use; None: all.
    """
    if valid_B is None:
        return torch.linalg.vector_norm(x_BO).square() / x_BO.numel()
    rows_B = x_BO.square().mean(dim=1).masked_fill(~valid_B, 0.0)
    return rows_B.sum() / valid_B.sum().clamp_min(1)


def mean_square_grad(x_BO: Tensor, valid_B: Tensor | None) -> Tensor:
    """The gradient of :func:`mean_square`, in the place of its argument.

    Args:
        x_BO: errors; they are overwritten.
        valid_B: rows to use; None: all.

    Returns:
        ``x_BO``.
    """
    if valid_B is None:
        return x_BO.mul_(2 / x_BO.numel())
    count = (valid_B.sum().clamp_min(1) * x_BO.shape[1]).to(x_BO.dtype)
    return x_BO.masked_fill_(~valid_B[:, None], 0.0).mul_(2 / count)


def _add(linear: nn.Linear, grad_BO: Tensor, x_BD: Tensor) -> None:
    """Add the gradients of one layer's weight and bias, unless they are frozen."""
    weight, bias = linear.weight, linear.bias
    if weight.requires_grad:
        grad = torch.mm(grad_BO.t(), x_BD)
        weight.grad = grad if weight.grad is None else weight.grad.add_(grad)
    if bias.requires_grad:
        grad = grad_BO.sum(0)
        bias.grad = grad if bias.grad is None else bias.grad.add_(grad)
