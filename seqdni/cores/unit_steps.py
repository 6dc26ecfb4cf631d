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
    r"""Parameters that drive the units together, each of their rows one unit.

    Args:
        reach_TBPGH: :math:`\partial s_t / \partial a_t` of each unit.
        inputs: :math:`z_t`, which the rows of a parameter are multiplied with, ``[T, B, K]``, by
            the parameter's name in the core; ones (K = 1) for a parameter that is added as it is. A
            parameter has G * H rows of K numbers, and row ``g * H + i`` belongs to unit i.
    """

    reach_TBPGH: Tensor
    inputs: dict[str, Tensor]


class UnitSteps(NamedTuple):
    r"""The derivatives of every step of a chunk, unit by unit.

    Args:
        keep_TBPQH: :math:`\partial s_t / \partial s_{t-1}` of each unit; Q counts the numbers of
            the state before the step, as P does those after it.
        sources: what drives the units.
    """

    keep_TBPQH: Tensor
    sources: tuple[Source, ...]


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
    return isinstance(rnn, (nn.LSTM, nn.GRU)) and can_run_traced(rnn) and rnn.num_layers == 1


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
        >>> steps.keep_TBPQH.shape, [source.reach_TBPGH.shape[3] for source in steps.sources]
        (torch.Size([4, 1, 1, 1, 3]), [3, 3])
    """
    if not has_unit_steps(rnn):
        raise ValueError(
            f"got {rnn}, expected an nn.LSTM or nn.GRU of one layer, time-major, with dropout=0 "
            "and proj_size=0"
        )
    assert isinstance(rnn, (nn.LSTM, nn.GRU))
    assert trace.inputs_TBD is not None
    w_ih, w_hh, *biases = rnn.all_weights[0]
    b_ih, b_hh = biases or (None, None)
    state_TBPH = trace.states_TBS.unflatten(2, (-1, rnn.hidden_size))
    x_TBD, h_TBH = trace.inputs_TBD, state_TBPH[:, :, 0]
    by_input = functional.linear(x_TBD, w_ih, b_ih).unflatten(2, (-1, rnn.hidden_size))
    by_hidden = functional.linear(h_TBH, w_hh, b_hh).unflatten(2, (-1, rnn.hidden_size))
    of_input, of_hidden = {"weight_ih_l0": x_TBD}, {"weight_hh_l0": h_TBH}
    if b_ih is not None:
        ones = x_TBD.new_ones(*x_TBD.shape[:2], 1)
        of_input["bias_ih_l0"] = of_hidden["bias_hh_l0"] = ones
    of_input, of_hidden = (
        {prefix + name: inputs for name, inputs in part.items()} for part in (of_input, of_hidden)
    )
    if isinstance(rnn, nn.LSTM):  # a gate gets the sum of both
        keep_TBPQH, reach = unit_derivatives(_lstm_step, state_TBPH, by_input + by_hidden)
        sources, reach_of_hidden = (Source(reach, of_input | of_hidden),), reach
    else:
        drive = torch.cat([by_input, by_hidden], dim=2)
        keep_TBPQH, reach = unit_derivatives(_gru_step, state_TBPH, drive)
        reach_of_input, reach_of_hidden = reach.chunk(2, dim=3)
        sources = (Source(reach_of_input, of_input), Source(reach_of_hidden, of_hidden))
    own_GH = w_hh.unflatten(0, (-1, rnn.hidden_size)).diagonal(dim1=1, dim2=2)
    keep_TBPQH[:, :, :, 0] += (reach_of_hidden * own_GH).sum(dim=3)
    return UnitSteps(keep_TBPQH, sources)


def _lstm_step(state_TBPH: Tensor, drive_TBGH: Tensor) -> Tensor:
    i, f, g, o = drive_TBGH.unbind(2)
    cell = f.sigmoid() * state_TBPH[:, :, 1] + i.sigmoid() * g.tanh()
    return torch.stack([o.sigmoid() * cell.tanh(), cell], dim=2)


def _gru_step(state_TBPH: Tensor, drive_TBGH: Tensor) -> Tensor:
    r_x, z_x, n_x, r_h, z_h, n_h = drive_TBGH.unbind(2)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    return torch.lerp((n_x + r * n_h).tanh()[:, :, None], state_TBPH, z[:, :, None])
