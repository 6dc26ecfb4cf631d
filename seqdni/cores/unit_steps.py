r"""One step of a recurrent layer, unit by unit: what a unit's state depends on.

Shapes: T steps, B rows, P numbers in the state of a unit (2 in an LSTM: hidden and cell), H units,
G numbers that a unit gets in a step (4 in an LSTM: one for each gate), K features of an input.

A unit computes :math:`s_t = \phi(s_{t-1}, a_t)` from its own state, P numbers, and from what drives
it, G numbers. These are products of the unit's own rows of weights with an input that all units
share: :math:`a_t = W z_t`. So each row of weights acts on one unit alone within a step, and the
derivatives of a step are small: :math:`\partial s_t / \partial s_{t-1}` has P * P numbers for each
unit and row of the batch, and :math:`\partial s_t / \partial a_t` has P * G.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqdni.cores.state_gradients import Trace, can_run_traced


class Source(NamedTuple):
    r"""A parameter that acts on the state, each of its rows on one unit.

    Args:
        reach_TBPGH: :math:`\partial s_t / \partial a_t` of each unit.
        inputs_TBK: :math:`z_t`, which the rows are multiplied with; ones (K = 1) for a parameter
            that is added as it is. The parameter has G * H rows of K numbers, and row ``g * H + i``
            belongs to unit i.
    """

    reach_TBPGH: Tensor
    inputs_TBK: Tensor


class UnitSteps(NamedTuple):
    r"""The derivatives of every step of a chunk, unit by unit.

    Args:
        keep_TBPQH: :math:`\partial s_t / \partial s_{t-1}` of each unit; Q counts the numbers of
            the state before the step, as P does those after it.
        sources: what acts on the state, by the name of the parameter in the core.
    """

    keep_TBPQH: Tensor
    sources: dict[str, Source]


def unit_derivatives(
    step: Callable[[Tensor, Tensor], Tensor], state_TBPH: Tensor, drive_TBGH: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The derivatives of a function of single units, :math:`s_t = \phi(s_{t-1}, a_t)`.

    Args:
        step: the function, ``([T, B, P, H], [T, B, G, H]) -> [T, B, P, H]``, in which no unit and
            no step depends on another.
        state_TBPH: the states before the steps.
        drive_TBGH: what drives the units.

    Returns:
        The derivatives with respect to the state, ``[T, B, P, P, H]``, and to the drive,
        ``[T, B, P, G, H]``.

    Example:
        >>> s, a = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> keep, reach = unit_derivatives(lambda s, a: 3 * s + a**2, s, a)
        >>> keep.flatten(), reach.flatten()
        (tensor([3., 3.]), tensor([2., 2.]))
    """
    with torch.enable_grad():
        before, drive = (x.detach().requires_grad_() for x in (state_TBPH, drive_TBGH))
        after = step(before, drive)
        parts = [
            torch.autograd.grad(part.sum(), (before, drive), retain_graph=True)
            for part in after.unbind(2)
        ]
    keep, reach = zip(*parts, strict=True)
    return torch.stack(keep, dim=2), torch.stack(reach, dim=2)


def has_unit_steps(rnn: nn.Module) -> bool:
    """Whether :func:`torch_unit_steps` is for a network.

    Args:
        rnn: any module.

    Returns:
        True for a time-major ``nn.LSTM`` or ``nn.GRU`` of one layer in one direction, without a
        projection.

    Example:
        >>> has_unit_steps(nn.LSTM(1, 1)), has_unit_steps(nn.LSTM(1, 1, num_layers=2))
        (True, False)
    """
    return can_run_traced(rnn) and rnn.num_layers == 1


def torch_unit_steps(rnn: nn.Module, trace: Trace, prefix: str = "") -> UnitSteps:
    r"""The derivatives of the steps of an ``nn.LSTM`` or ``nn.GRU`` of one layer.

    Units act on each other through the recurrent weights :math:`U`. That a unit acts on itself
    through :math:`U_{ii}` is counted, and that it acts on the others is left out:

    .. math:: \frac{\partial s_t}{\partial s_{t-1}} = \frac{\partial \phi}{\partial s_{t-1}}
              + \frac{\partial \phi}{\partial a_t} \, U_{ii}

    Args:
        rnn: the network.
        trace: of the chunk.
        prefix: put before the names of its parameters.

    Returns:
        The derivatives.

    Raises:
        ValueError: :func:`has_unit_steps` is False for the network.

    Example:
        >>> from seqdni.cores.state_gradients import run_traced
        >>> gru = nn.GRU(2, 3)
        >>> _, _, trace = run_traced(gru, torch.ones(4, 1, 2), torch.zeros(1, 1, 3))
        >>> steps = torch_unit_steps(gru, trace)
        >>> steps.keep_TBPQH.shape, sorted(steps.sources)[2:]
        (torch.Size([4, 1, 1, 1, 3]), ['weight_hh_l0', 'weight_ih_l0'])
    """
    if not has_unit_steps(rnn):
        raise ValueError(
            f"got {rnn}, expected an nn.LSTM or nn.GRU of one layer, time-major, with dropout=0 "
            "and proj_size=0"
        )
    assert isinstance(rnn, (nn.LSTM, nn.GRU))
    assert trace.inputs_TBD is not None
    w_ih, w_hh, b_ih, b_hh = (*rnn.all_weights[0], None, None)[:4]
    state_TBPH = trace.states_TBS.unflatten(2, (-1, rnn.hidden_size))
    x_TBD, h_TBH = trace.inputs_TBD, state_TBPH[:, :, 0]
    from_both = [functional.linear(x_TBD, w_ih, b_ih), functional.linear(h_TBH, w_hh, b_hh)]
    step = _lstm_step if isinstance(rnn, nn.LSTM) else _gru_step
    keep_TBPQH, reach_TBPGH = unit_derivatives(
        step, state_TBPH, torch.cat(from_both, dim=2).unflatten(2, (-1, rnn.hidden_size))
    )
    by_input, by_hidden = reach_TBPGH.chunk(2, dim=3)
    own_GH = w_hh.unflatten(0, (-1, rnn.hidden_size)).diagonal(dim1=1, dim2=2)
    keep_TBPQH[:, :, :, 0] += (by_hidden * own_GH).sum(dim=3)
    sources = {
        "weight_ih_l0": Source(by_input, x_TBD),
        "weight_hh_l0": Source(by_hidden, h_TBH),
    }
    if b_ih is not None:
        ones = x_TBD.new_ones(*x_TBD.shape[:2], 1)
        sources |= {"bias_ih_l0": Source(by_input, ones), "bias_hh_l0": Source(by_hidden, ones)}
    return UnitSteps(keep_TBPQH, {prefix + name: source for name, source in sources.items()})


def _lstm_step(state_TBPH: Tensor, drive_TBGH: Tensor) -> Tensor:
    i, f, g, o = sum(drive_TBGH.chunk(2, dim=2)).unbind(2)
    cell = f.sigmoid() * state_TBPH[:, :, 1] + i.sigmoid() * g.tanh()
    return torch.stack([o.sigmoid() * cell.tanh(), cell], dim=2)


def _gru_step(state_TBPH: Tensor, drive_TBGH: Tensor) -> Tensor:
    r_x, z_x, n_x, r_h, z_h, n_h = drive_TBGH.unbind(2)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    return torch.lerp((n_x + r * n_h).tanh()[:, :, None], state_TBPH, z[:, :, None])
