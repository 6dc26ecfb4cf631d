r"""A linear recurrent unit: a core whose units do not act on each other.

Shapes: T steps, B rows, D input features, H units, S = 2 H features of a packed state.

Source: Orvieto et al., *Resurrecting Recurrent Neural Networks for Long Sequences*,
arXiv 2303.06349.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from seqdni.cores.state_gradients import Trace
from seqdni.cores.unit_steps import Source, UnitSteps, unit_derivatives

SHORTEST = 10.0  # steps, of the memories at the start


class LRU(nn.Module):
    r"""A linear recurrence of complex numbers, one for each unit, and a nonlinear output.

    .. math:: h_t = \lambda \odot h_{t-1} + \sqrt{1 - |\lambda|^2} \odot (W x_t), \qquad
              y_t = \mathrm{gelu}(C \, [\mathrm{Re} \, h_t, \mathrm{Im} \, h_t] + V x_t + b)

    with :math:`\lambda = \exp(-e^{\nu} + i \theta)`, so that :math:`|\lambda| < 1`. The root keeps
    the size of a state the same however long a unit remembers. As no unit acts on another,
    :class:`seqdni.Influence` gives the exact gradient for this core.

    Args:
        inputs: D.
        units: H, also the number of output features.
        longest: a unit remembers for about :math:`1 / (1 - |\lambda|)` steps. At the start these
            memories are spread between 10 and this many steps, evenly in their logarithm.
        largest_angle: at the start :math:`\theta` is drawn between 0 and this angle, in radians.

    Raises:
        ValueError: ``longest`` is below 10.

    Example:
        >>> core = LRU(3, 4)
        >>> y, state = core(torch.zeros(5, 2, 3), core.initial_state(2))
        >>> y.shape, state.shape
        (torch.Size([5, 2, 4]), torch.Size([2, 2, 4]))
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        longest: float = 1000.0,
        largest_angle: float = math.pi / 10,
    ):
        super().__init__()
        if not longest >= SHORTEST:
            raise ValueError(f"longest is {longest}, expected a number of steps >= {SHORTEST}")
        memories = SHORTEST * (longest / SHORTEST) ** torch.rand(units)
        self.nu = nn.Parameter((-torch.log1p(-1 / memories)).log())
        self.theta = nn.Parameter(largest_angle * torch.rand(units))
        self.read = nn.Linear(inputs, 2 * units, bias=False)
        self.mix = nn.Linear(2 * units, units)
        self.skip = nn.Linear(inputs, units, bias=False)

    def initial_state(self, batch_size: int) -> Tensor:
        """A state of zeros.

        Args:
            batch_size: B.

        Returns:
            ``[2, B, H]``: the real parts and the imaginary parts.
        """
        return self.nu.new_zeros(2, batch_size, len(self.nu))

    def forward(
        self, x_TBD: Float[Tensor, "T B D"], state: Float[Tensor, "2 B H"]
    ) -> tuple[Tensor, Tensor]:
        """Run a chunk.

        Args:
            x_TBD: inputs.
            state: the state before the first step, from :meth:`initial_state` or the last chunk.

        Returns:
            Outputs ``[T, B, H]``, and the state after the last step.
        """
        y_TBH, state, _ = self._run(x_TBD, state, None)
        return y_TBH, state

    @property
    def can_trace(self) -> bool:
        """Whether :meth:`traced` works: always."""
        return True

    def traced(
        self, x_TBD: Float[Tensor, "T B D"], state: Float[Tensor, "2 B H"]
    ) -> tuple[Tensor, Tensor, Trace]:
        """Run a chunk and trace its states.

        Args:
            x_TBD: inputs.
            state: the state before the first step.

        Returns:
            The outputs and the state that :meth:`forward` returns, and the trace.
        """
        probe_TBS = self.nu.new_zeros(*x_TBD.shape[:2], 2 * len(self.nu)).requires_grad_()
        y_TBH, end, entered_TBH = self._run(x_TBD, state, probe_TBS)
        states_TBS = torch.cat([entered_TBH.real, entered_TBH.imag], dim=2).detach()
        return y_TBH, end, Trace(states_TBS, (probe_TBS,), x_TBD.detach().to(self.nu.dtype))

    @property
    def has_unit_steps(self) -> bool:
        """Whether :meth:`unit_steps` works: always."""
        return True

    def unit_steps(self, trace: Trace) -> UnitSteps:
        """The derivatives of the steps of a chunk, unit by unit.

        Args:
            trace: of the chunk.

        Returns:
            The derivatives; they are all that there are.
        """
        assert trace.inputs_TBD is not None
        x_TBD, units = trace.inputs_TBD, len(self.nu)
        drive_TBGH = functional.linear(x_TBD, self.read.weight).unflatten(2, (2, units))
        own = torch.stack([self.nu, self.theta]).expand(*x_TBD.shape[:2], -1, -1)
        keep_TBPQH, reach_TBPGH = unit_derivatives(
            _step, trace.states_TBS.unflatten(2, (2, units)), torch.cat([drive_TBGH, own], dim=2)
        )
        by_input, by_nu, by_theta = reach_TBPGH.split((2, 1, 1), dim=3)
        ones = x_TBD.new_ones(*x_TBD.shape[:2], 1)
        return UnitSteps(
            keep_TBPQH,
            (
                Source(by_input, {"read.weight": x_TBD}),
                Source(by_nu, {"nu": ones}),
                Source(by_theta, {"theta": ones}),
            ),
        )

    def _run(
        self, x_TBD: Tensor, state: Tensor, probe_TBS: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs, the state after the last step, and the complex state before each step.

        The recurrence is in the type of the parameters, also under autocast.
        """
        with torch.autocast(x_TBD.device.type, enabled=False):
            dtype = self.nu.dtype
            kept, scale = _kept_and_scale(self.nu, self.theta)
            real, imaginary = (self.read(x_TBD.to(dtype)) * scale.repeat(2)).chunk(2, dim=2)
            written_TBH = torch.complex(real, imaginary)
            h_BH = torch.complex(*state.to(dtype).unbind(0))
            probes = [] if probe_TBS is None else torch.complex(*probe_TBS.chunk(2, dim=2))
            passed = [h_BH]
            for t, written_BH in enumerate(written_TBH):
                entered_BH = h_BH if probe_TBS is None else h_BH + probes[t]
                h_BH = kept * entered_BH + written_BH
                passed.append(h_BH)
            h_TBH = torch.stack(passed)
            after_TBH = h_TBH[1:]
        mixed = self.mix(torch.cat([after_TBH.real, after_TBH.imag], dim=2)) + self.skip(x_TBD)
        return functional.gelu(mixed), torch.stack([h_BH.real, h_BH.imag]), h_TBH[:-1]


def _kept_and_scale(nu: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The factor on the state in a step, and that on what is written."""
    decay = nu.exp()
    return torch.polar((-decay).exp(), theta), (-torch.expm1(-2 * decay)).sqrt()


def _step(state_TBPH: Tensor, drive_TBGH: Tensor) -> Tensor:
    """One step in real numbers, for its derivatives."""
    real, imaginary = state_TBPH.unbind(2)
    written_real, written_imaginary, nu, theta = drive_TBGH.unbind(2)
    kept, scale = _kept_and_scale(nu, theta)
    return torch.stack(
        [
            kept.real * real - kept.imag * imaginary + scale * written_real,
            kept.imag * real + kept.real * imaginary + scale * written_imaginary,
        ],
        dim=2,
    )
