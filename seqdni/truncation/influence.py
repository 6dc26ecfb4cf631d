r"""Carries the influence of the parameters on the state past a chunk's end (SnAp-1, exact RTRL).

Shapes: T steps, B rows, P numbers in the state of a unit, H units, G numbers that a unit gets in a
step, K features of an input; Q is P before a step.

Sources: Williams & Zipser, *A Learning Algorithm for Continually Running Fully Recurrent Neural
Networks*, Neural Computation 1 (1989); Menick et al., *A Practical Sparse Approximation for Real
Time Recurrent Learning*, arXiv 2006.07232; Zucchet et al., *Online learning of long-range
dependencies*, arXiv 2305.15947.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from seqdni.cores.base import Core, TorchCore, TraceableCore
from seqdni.cores.model import SequenceModel
from seqdni.cores.state_gradients import Trace
from seqdni.cores.unit_steps import UnitSteps
from seqdni.parallel_checkpoint import OfRows, as_it_is
from seqdni.state import State, target_grad


@runtime_checkable
class UnitwiseCore(TraceableCore, Protocol):
    """A core that can tell what the state of each unit depends on.

    Where ``has_unit_steps`` is True, ``unit_steps`` returns the derivatives of the steps of a
    chunk. The packed state has H features for each of the P numbers of a unit.
    """

    @property
    def has_unit_steps(self) -> bool: ...

    def unit_steps(self, trace: Trace) -> UnitSteps: ...


class Influence:
    r"""Carries the influence of the core's parameters on the state past the ends of the chunks.

    The influence is the derivative of the state with respect to the parameters,
    :math:`J_t = d s_t / d \theta`. With it the gradient of a chunk that starts from :math:`s_0` is

    .. math:: \frac{\partial L}{\partial \theta}
              + \Big\langle \frac{\partial L}{\partial s_0}, J_0 \Big\rangle,
              \qquad J_t = D_t J_{t-1} + I_t

    The first term is that of truncated BPTT. :math:`I_t` is what the parameters do to the state
    within step t, and :math:`D_t = \partial s_t / \partial s_{t-1}`. Only the influence of a unit's
    own weights on the unit's own state is kept, so that :math:`D_t` is one small block for each
    unit. For :class:`seqdni.LRU`, whose units do not act on each other, this is exact
    (real-time recurrent learning, RTRL). For an LSTM or a GRU of one layer it is the approximation
    SnAp-1, which leaves out what a unit does to the others across the end of a chunk.

    It needs no synthesizer, and looks at no step after the chunk. The memory does not grow with T.
    It is B * P numbers for each parameter of the core (P = 2 in an LSTM and an LRU, 1 in a GRU).
    The influence of the past is that of the weights as they were then. Parameters of the encoder
    get the gradient of truncated BPTT.

    Example:
        >>> from seqdni import Learner, OneHot, TorchCore, Trainer
        >>> model = SequenceModel(OneHot(3), TorchCore(nn.LSTM(3, 8)), nn.Linear(8, 3))
        >>> trainer = Trainer(model, Learner(torch.optim.Adam(model.parameters())), Influence())
        >>> tokens = torch.randint(3, (4 + 1, 2))
        >>> trainer.step((tokens[:-1], tokens[1:]))
        >>> trainer.credit.of_parameters(model)["rnn.weight_ih_l0"].shape
        torch.Size([2, 2, 8, 4, 3])
    """

    obstacle_to_capture = "the influence of the parameters on the state"

    def __init__(self):
        self._kept: list[tuple[list[str], Tensor]] = []  # of each source: [B, P, H, G, K]

    def forget(self) -> None:
        """Start again from no influence, as at the start of a stream."""
        self._kept = []

    def of_parameters(self, model: Core) -> dict[str, Tensor]:
        """The influence of each parameter on the state at the end of the last chunk.

        Args:
            model: the model that is trained.

        Returns:
            ``[B, P, H, G, K]`` by the parameter's name in the core; empty before the first chunk.
        """
        found = {}
        for names, kept_BPHGK in self._kept:
            widths = _widths(unitwise_core(model), names, kept_BPHGK)
            found |= zip(names, kept_BPHGK.split(widths, dim=4), strict=True)
        return found

    def add_gradients(self, model: Core, start: State) -> None:
        r"""Add :math:`\langle \partial L / \partial s_0, J_0 \rangle` to the parameters' gradients.

        Args:
            model: the model that is trained.
            start: the state that the chunk started from, made by :func:`seqdni.cut`, after the
                chunk's backward pass.
        """
        grad_BS, core = target_grad(start), unitwise_core(model)
        for names, kept_BPHGK in self._kept:
            added_GHK = _gradient(grad_BS, kept_BPHGK)
            parts = added_GHK.split(_widths(core, names, kept_BPHGK), dim=2)
            for name, part_GHK in zip(names, parts, strict=True):
                parameter = core.get_parameter(name)
                if parameter.requires_grad:
                    added = part_GHK.reshape(parameter.shape)
                    parameter.grad = added if parameter.grad is None else parameter.grad + added

    @torch.no_grad()
    def keep(
        self,
        model: Core,
        trace: Trace,
        should_reset: Tensor | None,
        restart_broken_rows: bool = False,
    ) -> None:
        r"""Bring the influence from a chunk's start to its end.

        Written out over the chunk, the recursion is
        :math:`J_T = C_0 J_0 + \sum_t C_t I_t` with :math:`C_t = D_T D_{T-1} \cdots D_{t+1}`, where
        :math:`D_t` is zero in a row that restarts before step t. So the large :math:`J` is read and
        written once in a chunk.

        Args:
            model: the model that is trained.
            trace: of the chunk.
            should_reset: of the chunk, ``[T + 1, B]`` or None.
            restart_broken_rows: whether rows whose influence is not finite start from zero.
        """
        keep_TBPQH, sources = unitwise_core(model).unit_steps(trace)
        goes_on_TB = None
        if should_reset is not None:
            goes_on_TB = ~should_reset[:-1].to(keep_TBPQH.device, non_blocking=True)
        through_TBPQH, over_BPQH = _products(keep_TBPQH, goes_on_TB)
        kept = []
        for number, (reach_TBPGH, inputs) in enumerate(sources):
            arrives_BPHGT = _blockwise(through_TBPQH, reach_TBPGH).permute(1, 2, 4, 3, 0)
            inputs_BTK = torch.cat(list(inputs.values()), dim=2).transpose(0, 1)
            new = torch.bmm(arrives_BPHGT.flatten(1, 3), inputs_BTK)
            new_BPHGK = new.view(*arrives_BPHGT.shape[:-1], -1)
            if self._kept:
                _add_carried(new_BPHGK, over_BPQH, self._kept[number][1])
            if restart_broken_rows:
                broken_B = ~new_BPHGK.flatten(1).sum(1).isfinite()
                new_BPHGK.masked_fill_(broken_B[:, None, None, None, None], 0)
            kept.append((list(inputs), new_BPHGK))
        self._kept = kept

    def state_dict(self, whole: OfRows = as_it_is) -> list[dict[str, Any]]:
        """The influence, as it is kept: parameters that drive the units together are side by side.

        Args:
            whole: makes a tensor of all rows from one with the rows of this process.

        Returns:
            Lists, names and tensors ``[B, P, H, G, K]``; empty before the first chunk.
        """
        return [
            {"parameters": list(names), "influence": whole(kept, 0)} for names, kept in self._kept
        ]

    def load_state_dict(
        self, saved: list[dict[str, Any]], device: torch.device, own: OfRows = as_it_is
    ) -> None:
        """Restore the influence.

        Args:
            saved: from :meth:`state_dict`.
            device: where the model computes.
            own: takes the rows of this process out of a tensor of all rows.
        """
        self._kept = [(each["parameters"], own(each["influence"], 0).to(device)) for each in saved]


def _widths(core: nn.Module, names: list[str], kept_BPHGK: Tensor) -> list[int]:
    """K of each parameter."""
    rows = kept_BPHGK.shape[2] * kept_BPHGK.shape[3]
    return [core.get_parameter(name).numel() // rows for name in names]


def _products(keep_TBPQH: Tensor, goes_on_TB: Tensor | None) -> tuple[Tensor, Tensor]:
    """The derivative of the last state by that after each step, and by that before the chunk."""
    if goes_on_TB is not None:
        keep_TBPQH = torch.where(goes_on_TB[:, :, None, None, None], keep_TBPQH, 0)
    _, rows, size, _, units = keep_TBPQH.shape
    identity = torch.eye(size, dtype=keep_TBPQH.dtype, device=keep_TBPQH.device)
    product = identity[None, :, :, None].expand(rows, -1, -1, units)
    after = []
    for keep_BPQH in keep_TBPQH.flip(0):
        after.append(product)
        product = _blockwise(product, keep_BPQH)
    return torch.stack(after[::-1]), product


def _blockwise(left: Tensor, right: Tensor) -> Tensor:
    """The product of a small matrix for each unit with another one: ``[..., P, Q, H]``."""
    return (left[..., :, :, None, :] * right[..., None, :, :, :]).sum(dim=-3)


def _add_carried(new_BPHGK: Tensor, over_BPQH: Tensor, kept_BPHGK: Tensor) -> None:
    """Add the product of a small matrix for each unit with the influence on the unit, in place."""
    for over_BPH, kept_BHGK in zip(over_BPQH.unbind(2), kept_BPHGK.unbind(1), strict=True):
        new_BPHGK.addcmul_(over_BPH[..., None, None], kept_BHGK[:, None])


def _gradient(grad_BS: Tensor, kept_BPHGK: Tensor) -> Tensor:
    """The sum over rows and the numbers of a unit: one product of matrices for each unit."""
    units = kept_BPHGK.shape[2]
    grad_HN = grad_BS.unflatten(1, (-1, units)).flatten(0, 1).t()
    added = torch.bmm(grad_HN[:, None], kept_BPHGK.flatten(3).flatten(0, 1).transpose(0, 1))
    return added.view(units, *kept_BPHGK.shape[3:]).transpose(0, 1)


# What is refused


def unitwise_core(model: Any) -> Any:
    """The core of a model, if it can tell what the state of each unit depends on.

    Args:
        model: a :class:`seqdni.SequenceModel`, or a core.

    Returns:
        The core.

    Raises:
        ValueError: it cannot tell.
    """
    core = model.core if isinstance(model, SequenceModel) else model
    if isinstance(core, UnitwiseCore) and core.has_unit_steps:
        return core
    got = core.rnn if isinstance(core, TorchCore) else type(core).__name__
    raise ValueError(
        f"Influence() got a core that is {got}, which cannot tell what the state of each unit "
        "depends on; expected LRU, or TorchCore of an nn.LSTM or nn.GRU of one layer without "
        "projections, by itself or in a SequenceModel. Other models: SyntheticGradients or Overlap"
    )
