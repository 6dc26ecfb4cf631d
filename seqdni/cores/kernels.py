"""One layer of an LSTM or a GRU over one chunk, with the gradient of the state at every step.

Shapes: T steps, B rows, D input features, H features of the layer.

These autograd functions take the weights of ``nn.LSTM`` and ``nn.GRU`` in the layout of torch. They
take the start state and, for each of its tensors, a *probe* ``[T, B, H]``: zeros added to the
states that enter each step. Their values are ignored, and their gradients are the gradients of
those states. The states are returned too, after the outputs and the last state. The inputs of all
steps are projected by one matrix product, and the gradient of each weight is one product over all
T * B rows, so that the loop over the steps computes only what is recurrent.

Source: Hochreiter & Schmidhuber, Long Short-Term Memory (1997), with forget gates; Cho et al.,
arXiv 1406.1078, in torch's variant, which resets after the recurrent product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


def _project(x_TBD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``x W^T + b`` for the whole chunk, as one product over its T * B rows."""
    x = x_TBD.flatten(0, 1)
    y = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
    return y.view(*x_TBD.shape[:2], -1)


def _project_back(
    ctx: Any, before: int, dx: Tensor, x_TBD: Tensor, w_ih: Tensor, dh: Tensor, h_TBH: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of x and of the four weights, which come after ``before`` other arguments."""
    dx_NG, dh_NG, x_ND = dx.flatten(0, 1), dh.flatten(0, 1), x_TBD.flatten(0, 1)
    w_ih_wants, w_hh_wants, b_ih_wants, b_hh_wants = ctx.needs_input_grad[before:]
    db_ih = dx_NG.sum(0) if b_ih_wants or (b_hh_wants and dx is dh) else None
    db_hh = db_ih if dx is dh or not b_hh_wants else dh_NG.sum(0)
    return (
        torch.mm(dx_NG, w_ih).view_as(x_TBD) if ctx.needs_input_grad[0] else None,
        torch.mm(dx_NG.t(), x_ND) if w_ih_wants else None,
        torch.mm(dh_NG.t(), h_TBH.flatten(0, 1)) if w_hh_wants else None,
        db_ih if b_ih_wants else None,
        db_hh if b_hh_wants else None,
    )


def _or_zeros(grads: tuple[Tensor | None, ...], *like: Tensor) -> list[Tensor]:
    """The first ``len(like)`` gradients, with expanded zeros where none arrived."""
    pairs = zip(grads, like, strict=False)
    return [x.new_zeros(()).expand_as(x) if grad is None else grad for grad, x in pairs]


class LSTMLayer(torch.autograd.Function):
    r"""One LSTM layer over one chunk: :math:`c_t = f c_{t-1} + i g, \; h_t = o \tanh c_t`.

    On a CPU :math:`\tanh` is slower than :math:`\sigma`. As
    :math:`\tanh z = 2 \sigma(2 z) - 1`, one sigmoid computes all four gates.
    """

    @staticmethod
    def forward(ctx, x_TBD, h_BH, c_BH, probe_h, probe_c, w_ih, w_hh, b_ih, b_hh):
        steps, rows = x_TBD.shape[:2]
        size = w_hh.shape[1]
        gates = _project(x_TBD, w_ih, None if b_ih is None else b_ih + b_hh)
        hidden, cell = (gates.new_empty(steps + 1, rows, size) for _ in range(2))
        tanh_cell = gates.new_empty(steps, rows, size)
        hidden[0], cell[0] = h_BH, c_BH
        h, c = hidden.unbind(0), cell.unbind(0)
        by_gate = (gate.unbind(0) for gate in gates.chunk(4, dim=2))
        step = zip(gates.unbind(0), *by_gate, tanh_cell.unbind(0), strict=True)
        recurrent, minus_one = w_hh.t(), gates.new_full((size,), -1.0)
        for t, (all_gates, i, f, g, o, tanh_c) in enumerate(step):
            all_gates.addmm_(h[t], recurrent)
            g.mul_(2)
            all_gates.sigmoid_()
            torch.add(minus_one, g, alpha=2, out=g)
            torch.mul(f, c[t], out=c[t + 1]).addcmul_(i, g)
            torch.mul(c[t + 1], 2, out=tanh_c).sigmoid_()
            torch.add(minus_one, tanh_c, alpha=2, out=tanh_c)
            torch.mul(o, tanh_c, out=h[t + 1])
        ctx.save_for_backward(x_TBD, w_ih, w_hh, gates, hidden, cell, tanh_cell)
        entered = hidden[:-1], cell[:-1]
        ctx.mark_non_differentiable(*entered)
        ctx.set_materialize_grads(False)
        return hidden[1:], h[-1], c[-1], *entered

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TBD, w_ih, w_hh, gates, hidden, cell, tanh_cell = ctx.saved_tensors
        dy_TBH, dh_BH, dc_BH = _or_zeros(grads, tanh_cell, hidden[0], cell[0])
        i, f, g, o = gates.chunk(4, dim=2)
        # Gradients of the gates divided by dc (i, f, g) or dh (o); the loop multiplies by these.
        d_gates = torch.empty_like(gates)
        by_gate = d_gates.unflatten(2, (4, -1))
        d_i, d_f, d_g, d_o = by_gate.unbind(2)
        _sigmoid_backward.grad_input(g, i, grad_input=d_i)
        _sigmoid_backward.grad_input(cell[:-1], f, grad_input=d_f)
        _tanh_backward.grad_input(i, g, grad_input=d_g)
        _sigmoid_backward.grad_input(tanh_cell, o, grad_input=d_o)
        dc_per_dh = _tanh_backward(o, tanh_cell).unbind(0)
        probe_h, probe_c = torch.empty_like(tanh_cell), torch.empty_like(tanh_cell)
        to_h, to_c, dy, forget = (part.unbind(0) for part in (probe_h, probe_c, dy_TBH, f))
        d_gate, d_ifg, d_o = d_gates.unbind(0), by_gate[:, :, :3].unbind(0), d_o.unbind(0)
        dh, dc = torch.empty_like(to_h[0]), torch.empty_like(to_h[0])
        dc_of_gates = dc[:, None]
        for t in reversed(range(len(dy))):
            torch.add(dy[t], dh_BH, out=dh)
            torch.addcmul(dc_BH, dh, dc_per_dh[t], out=dc)
            d_ifg[t].mul_(dc_of_gates)
            d_o[t].mul_(dh)
            dc_BH = torch.mul(dc, forget[t], out=to_c[t])
            dh_BH = torch.mm(d_gate[t], w_hh, out=to_h[t])
        dx, *weights = _project_back(ctx, 5, d_gates, x_TBD, w_ih, d_gates, hidden[:-1])
        return dx, dh_BH, dc_BH, probe_h, probe_c, *weights


class GRULayer(torch.autograd.Function):
    r"""One GRU layer over a chunk: :math:`n = \tanh(W x + r U h), \; h_t = n + z (h_{t-1} - n)`."""

    @staticmethod
    def forward(ctx, x_TBD, h_BH, probe_h, w_ih, w_hh, b_ih, b_hh):
        steps, rows = x_TBD.shape[:2]
        size = w_hh.shape[1]
        gates = _project(x_TBD, w_ih, b_ih)
        from_h = torch.empty_like(gates)
        hidden = gates.new_empty(steps + 1, rows, size)
        hidden[0] = h_BH
        h = hidden.unbind(0)
        rz, rz_from_h = (part[:, :, : 2 * size].unbind(0) for part in (gates, from_h))
        r, z, n = (gate.unbind(0) for gate in gates.chunk(3, dim=2))
        n_from_h, all_from_h = from_h[:, :, 2 * size :].unbind(0), from_h.unbind(0)
        recurrent = w_hh.t()
        for t in range(steps):
            if b_hh is None:
                torch.mm(h[t], recurrent, out=all_from_h[t])
            else:
                torch.addmm(b_hh, h[t], recurrent, out=all_from_h[t])
            rz[t].add_(rz_from_h[t]).sigmoid_()
            n[t].addcmul_(r[t], n_from_h[t]).tanh_()
            torch.lerp(n[t], h[t], z[t], out=h[t + 1])
        ctx.save_for_backward(x_TBD, w_ih, w_hh, gates, from_h, hidden)
        entered = hidden[:-1]
        ctx.mark_non_differentiable(entered)
        ctx.set_materialize_grads(False)
        return hidden[1:], h[-1], entered

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TBD, w_ih, w_hh, gates, from_h, hidden = ctx.saved_tensors
        dy_TBH, dh_BH = _or_zeros(grads, hidden[1:], hidden[0])
        r, z, n = gates.chunk(3, dim=2)
        # Gradients of the gates' recurrent products divided by dh; the loop multiplies by it.
        d_from_h = torch.empty_like(gates)
        by_gate = d_from_h.unflatten(2, (3, -1))
        d_r, d_z, d_n_from_h = by_gate.unbind(2)
        d_n = _tanh_backward(1 - z, n)
        _sigmoid_backward.grad_input(d_n * from_h.chunk(3, dim=2)[2], r, grad_input=d_r)
        _sigmoid_backward.grad_input(hidden[:-1] - n, z, grad_input=d_z)
        torch.mul(d_n, r, out=d_n_from_h)
        probe_h, dh_TBH = torch.empty_like(d_n), torch.empty_like(d_n)
        to_h, dh, dy, keep = (part.unbind(0) for part in (probe_h, dh_TBH, dy_TBH, z))
        dh_of_gates, d_gate, d_gates = (
            dh_TBH[:, :, None].unbind(0),
            by_gate.unbind(0),
            d_from_h.unbind(0),
        )
        for t in reversed(range(len(dy))):
            torch.add(dy[t], dh_BH, out=dh[t])
            d_gate[t].mul_(dh_of_gates[t])
            dh_BH = torch.mul(dh[t], keep[t], out=to_h[t]).addmm_(d_gates[t], w_hh)
        d_gates = d_from_h.clone()
        torch.mul(dh_TBH, d_n, out=d_gates.chunk(3, dim=2)[2])
        dx, *weights = _project_back(ctx, 3, d_gates, x_TBD, w_ih, d_from_h, hidden[:-1])
        return dx, dh_BH, probe_h, *weights


class Layers(NamedTuple):
    """How layers are run; each function takes what ``forward`` of the class takes after ``ctx``.

    Args:
        lstm: as :class:`LSTMLayer`.
        gru: as :class:`GRULayer`.
    """

    lstm: Callable[..., Any]
    gru: Callable[..., Any]


BY_TORCH = Layers(LSTMLayer.apply, GRULayer.apply)
