"""The contract of a core, torch's recurrent networks as cores, and how a core is run over a chunk.

Shapes: T steps, B rows, D input features, H output features, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from seqdni.cores.compiled import compiled_layers
from seqdni.cores.kernels import BY_TORCH, Layers
from seqdni.cores.state_gradients import (
    Trace,
    can_run_traced,
    join_traces,
    run_by_layers,
    run_traced,
)
from seqdni.cores.unit_steps import UnitSteps, has_unit_steps, torch_unit_steps
from seqdni.state import LSTMState, State, reset_rows

Inputs: TypeAlias = Float[Tensor, "T B D"] | Int64[Tensor, "T B"]


@runtime_checkable
class Core(Protocol):
    """The contract of a core: an object that is called like this and has an initial state.

    A core takes a chunk and a state, and returns outputs and the next state. All that it keeps from
    step to step is in that state. A whole model (embedding, recurrent network, readout) is a core
    too. A wrapper that must get each chunk whole has a method ``unroll(x, state, should_reset)``,
    which :func:`unroll` then calls.
    """

    def __call__(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State]: ...

    def initial_state(self, batch_size: int) -> State: ...


@runtime_checkable
class TraceableCore(Core, Protocol):
    """A core that can also record the gradient of every state inside a chunk.

    Where ``can_trace`` is True, ``traced`` does the same as a call, and also returns a
    :class:`Trace`.
    """

    @property
    def can_trace(self) -> bool: ...

    def traced(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State, Trace]: ...


class TorchCore(nn.Module):
    """An ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` as a core whose initial state is zero.

    With ``compiled=True`` an LSTM or a GRU runs on a CPU by layers that are compiled on the machine
    when they are first used there. They compute the same up to rounding, in less time for small
    chunks. On a GPU, under autocast and where the network has hooks, torch's own layers run.

    Args:
        rnn: the network; any number of layers, time-major, one direction.
        compiled: whether to use compiled layers, which need a C++ compiler and ninja.

    Raises:
        ValueError: the network is bidirectional, or batch-first; or there are no compiled layers
            for it.
        TypeError: it is another kind of module.
        RuntimeError: the compiled layers cannot be built.

    Example:
        >>> core = TorchCore(nn.LSTM(3, 4, num_layers=2))
        >>> y, state = core(torch.zeros(5, 2, 3), core.initial_state(batch_size=2))
        >>> y.shape, state.cell.shape
        (torch.Size([5, 2, 4]), torch.Size([2, 2, 4]))
    """

    def __init__(self, rnn: nn.LSTM | nn.GRU | nn.RNN, compiled: bool = False):
        super().__init__()
        if not isinstance(rnn, (nn.LSTM, nn.GRU, nn.RNN)):
            raise TypeError(
                f"expected nn.LSTM, nn.GRU or nn.RNN, got {type(rnn).__name__}; another core needs "
                "no wrapper: give it forward(x_TBD, state) and initial_state(batch_size)"
            )
        if rnn.bidirectional:
            raise ValueError(
                "a bidirectional network cannot be trained chunk by chunk: its backward direction "
                "starts at the end of the stream, which no chunk has seen; use bidirectional=False"
            )
        if rnn.batch_first:
            raise ValueError("expected a time-major network [T, B, D]; use batch_first=False")
        if compiled and not _is_plain(rnn):
            raise ValueError(
                f"there are compiled layers for nn.LSTM and nn.GRU without dropout and proj_size, "
                f"got {rnn}; leave out compiled=True, or put TorchCores into a Stack with dropout"
            )
        if compiled:
            compiled_layers()  # an error of the compiler comes here
        self.rnn = rnn
        self.compiled = compiled

    def initial_state(self, batch_size: int) -> State:
        """A state of zeros for all layers.

        Args:
            batch_size: B.

        Returns:
            :class:`LSTMState` for an LSTM, a tensor ``[L, B, H]`` otherwise.
        """
        rnn = self.rnn
        like = rnn.weight_hh_l0
        assert isinstance(like, Tensor)
        cell = like.new_zeros(rnn.num_layers, batch_size, rnn.hidden_size)
        if not isinstance(rnn, nn.LSTM):
            return cell
        hidden_size = rnn.proj_size or rnn.hidden_size
        return LSTMState(like.new_zeros(rnn.num_layers, batch_size, hidden_size), cell)

    def forward(self, x_TBD: Inputs, state: State) -> tuple[Tensor, State]:
        """Run a chunk.

        Args:
            x_TBD: inputs; where :meth:`runs_compiled`, they may be symbols ``[T, B]`` from 0 to
                D - 1, which stand for one-hot vectors.
            state: the state before the first step, from :meth:`initial_state` or the last chunk.

        Returns:
            Outputs ``[T, B, H]`` of the last layer, and the state after the last step.
        """
        if self.runs_compiled(x_TBD.device):
            return run_by_layers(self.rnn, x_TBD, state, compiled_layers())  # type: ignore[arg-type]
        if isinstance(self.rnn, nn.LSTM):
            y_TBH, (hidden, cell) = self.rnn(x_TBD, state)
            return y_TBH, LSTMState(hidden, cell)
        return self.rnn(x_TBD, state)

    def with_fixed_weights(self, x_TBD: Inputs, state: State) -> tuple[Tensor, State]:
        """Run a chunk whose backward pass need not reach the weights, as in looking ahead.

        On a CPU this is faster than :meth:`forward` for what can be traced; else it is the same.

        Args:
            x_TBD: as for :meth:`forward`.
            state: the state before the first step.

        Returns:
            What :meth:`forward` returns, up to rounding.
        """
        if _runs_by_loops(x_TBD.device) and _is_plain(self.rnn):
            layers = self._layers(x_TBD.device)
            return run_by_layers(self.rnn, x_TBD, state, layers, fixed_weights=True)  # type: ignore
        return self(x_TBD, state)

    def runs_compiled(self, device: torch.device) -> bool:
        """Whether compiled layers run on a device; they take symbols for one-hot vectors too.

        Args:
            device: of the inputs.
        """
        if not (self.compiled and _runs_by_loops(device) and _is_plain(self.rnn)):
            return False
        return self.rnn.weight_hh_l0.dtype in (torch.float32, torch.float64)

    def _layers(self, device: torch.device) -> Layers:
        return compiled_layers() if self.runs_compiled(device) else BY_TORCH

    @property
    def can_trace(self) -> bool:
        """Whether :meth:`traced` works: an LSTM or a GRU without dropout and projections."""
        return can_run_traced(self.rnn)

    def traced(self, x_TBD: Float[Tensor, "T B D"], state: State) -> tuple[Tensor, State, Trace]:
        """Run a chunk and trace its states, with the same weights.

        Args:
            x_TBD: inputs.
            state: the state before the first step.

        Returns:
            The outputs and the state that :meth:`forward` returns, up to rounding, and the trace.

        Raises:
            ValueError: :attr:`can_trace` is False.
        """
        return run_traced(self.rnn, x_TBD, state, self._layers(x_TBD.device))

    @property
    def has_unit_steps(self) -> bool:
        """Whether :meth:`unit_steps` works: an LSTM or a GRU of one layer that can be traced."""
        return has_unit_steps(self.rnn)

    def unit_steps(self, trace: Trace) -> UnitSteps:
        """The derivatives of the steps of a chunk, for :class:`seqdni.Influence`.

        Args:
            trace: of the chunk.

        Returns:
            The derivatives within each unit; what a unit does to others is left out.

        Raises:
            ValueError: :attr:`has_unit_steps` is False.
        """
        return torch_unit_steps(self.rnn, trace, prefix="rnn.")


def _is_plain(rnn: nn.Module) -> bool:
    """Whether it is torch's own network, and one that layers can run one after the other."""
    return type(rnn) in (nn.LSTM, nn.GRU) and can_run_traced(rnn)


def _runs_by_loops(device: torch.device) -> bool:
    """Whether a loop over steps can be faster than the network of torch."""
    return device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def unroll(
    core: Core, x: Tensor, state: State, should_reset: Bool[Tensor, "Tplus1 B"] | None = None
) -> tuple[Tensor, State]:
    r"""Run a core over a chunk, and restart rows where their episodes begin.

    Before step t, ``state_b = initial_b if should_reset[t, b] else state_b``. The chunk is run in
    pieces that begin at its restarts, so that a chunk without restarts is one call of the core. A
    core that has a method ``unroll`` gets the chunk and its restarts whole.

    Args:
        core: the core, or a whole model under the core's contract.
        x: inputs ``[T, B, ...]``.
        state: the state before the first step.
        should_reset: ``[T + 1, B]``, best kept on the CPU (to read it from a GPU is to wait for the
            GPU). The last entry is about the step after the chunk and is not applied here.

    Returns:
        Outputs ``[T, B, ...]`` and the state after step T.

    Raises:
        ValueError: ``should_reset`` is not ``[T + 1, B]``.

    Example:
        >>> core = TorchCore(nn.GRU(1, 1))
        >>> x, reset = torch.ones(3, 1, 1), torch.tensor([[True], [False], [True], [False]])
        >>> y, _ = unroll(core, x, core.initial_state(1), reset)
        >>> bool(y[0] == y[2]), bool(y[0] == y[1])
        (True, False)
    """
    steps, rows = x.shape[:2]
    if should_reset is not None and should_reset.shape != (steps + 1, rows):
        raise ValueError(
            f"should_reset is {list(should_reset.shape)}, expected [T + 1, B] = "
            f"[{steps + 1}, {rows}]: one row before each step and one for the step after the chunk"
        )
    own = getattr(type(core), "unroll", None)
    if own is not None:
        return own(core, x, state, should_reset)
    if should_reset is None:
        return core(x, state)
    resets = should_reset[:steps].any(dim=1).nonzero().flatten().tolist()
    return unroll_between(core, x, state, should_reset, resets)


def unroll_between(
    core: Core, x: Tensor, state: State, should_reset: Tensor, resets: Sequence[int]
) -> tuple[Tensor, State]:
    """Run a core over a chunk whose rows restart before some steps at most.

    Args:
        core: the core.
        x: inputs ``[T, B, ...]``.
        state: the state before the first step.
        should_reset: ``[T + 1, B]``, on any device; only its rows ``resets`` are used, and nothing
            waits for their values.
        resets: the steps before which rows restart, in ascending order.

    Returns:
        Outputs ``[T, B, ...]`` and the state after step T.
    """
    if not resets:
        return core(x, state)
    steps, rows = x.shape[:2]
    initial = core.initial_state(rows)
    begins = [*([] if resets[0] == 0 else [0]), *resets]
    outputs = []
    for first, last in zip(begins, [*begins[1:], steps], strict=True):
        if first in resets:
            rows_B = should_reset[first].to(x.device, non_blocking=True)
            state = reset_rows(state, rows_B, initial)
        y, state = core(x[first:last], state)
        outputs.append(y)
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], state


class FixedWeights:
    """A core whose backward pass need not reach its weights, because only the state matters.

    Args:
        core: with or without ``with_fixed_weights(x, state)``.
    """

    def __init__(self, core: Core):
        self.core = core
        owner = next((c for c in type(core).__mro__ if "with_fixed_weights" in vars(c)), None)
        # A subclass with a forward of its own computes something else.
        same = owner is not None and type(core).forward is owner.forward  # type: ignore
        self._run = core.with_fixed_weights if same else core  # type: ignore

    def initial_state(self, batch_size: int) -> State:
        """The core's initial state.

        Args:
            batch_size: B.
        """
        return self.core.initial_state(batch_size)

    def __call__(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State]:
        return self._run(x_TBD, state)


def pieces(
    x: Tensor, should_reset: Tensor | None, steps: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Split a chunk into pieces of ``steps`` steps; the last may be shorter.

    Args:
        x: inputs ``[T, B, ...]``.
        should_reset: ``[T + 1, B]``, or None.
        steps: the length of a piece.

    Yields:
        The inputs and ``should_reset`` of each piece.

    Example:
        >>> [len(x) for x, _ in pieces(torch.zeros(5, 1), None, 2)]
        [2, 2, 1]
    """
    for t in range(0, len(x), steps):
        reset = None if should_reset is None else should_reset[t : t + steps + 1]
        yield x[t : t + steps], reset


def unroll_traced(
    core: TraceableCore,
    x: Tensor,
    state: State,
    should_reset: Bool[Tensor, "Tplus1 B"] | None = None,
) -> tuple[Tensor, State, Trace]:
    """Run :func:`unroll` and trace all states, to get their gradients after the backward pass.

    Args:
        core: a core that has ``traced``, or a whole model that has it.
        x: inputs ``[T, B, ...]``.
        state: the state before the first step.
        should_reset: as for :func:`unroll`. Where a row restarts before step t, entry t of the
            trace belongs to the initial state, and is not a target for the state before.

    Returns:
        Outputs, the state after step T, and the trace of all T steps.

    Raises:
        ValueError: ``should_reset`` is not ``[T + 1, B]``, or the core cannot be traced.

    Example:
        >>> core = TorchCore(nn.GRU(1, 1))
        >>> y, _, trace = unroll_traced(core, torch.ones(3, 2, 1), core.initial_state(2))
        >>> y.sum().backward()
        >>> trace.states_TBS.shape == trace.grads().shape == (3, 2, 1)
        True
    """
    tracing = _Tracing(core)
    y, state = unroll(tracing, x, state, should_reset)
    return y, state, join_traces(tracing.traces)


class _Tracing:
    """Wraps a core, and keeps the traces of its calls."""

    def __init__(self, core: TraceableCore):
        self.core = core
        self.traces: list[Trace] = []

    def initial_state(self, batch_size: int) -> State:
        return self.core.initial_state(batch_size)

    def __call__(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State]:
        y, state, trace = self.core.traced(x_TBD, state)
        self.traces.append(trace)
        return y, state
