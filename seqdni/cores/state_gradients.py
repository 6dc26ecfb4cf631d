r"""Runs ``nn.LSTM`` and ``nn.GRU`` so that every state in a chunk gets its gradient.

Shapes: T steps, B rows, D input features, H features of a layer, S features of a packed state.

To the state that enters step t a *probe* is added, which is zero: :math:`\tilde s_t = s_t + p_t`.
The probe's gradient :math:`\partial L / \partial p_t` is the gradient that a chunk which starts at
t would have at its start. The backward pass computes it anyway, so that no second pass is needed.
In fact nothing is added: the layers in :mod:`seqdni.cores.kernels` take the probe, ignore its value
and return its gradient. They use the weights of the torch module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqdni.cores.kernels import BY_TORCH, Layers
from seqdni.module_hooks import has_hooks
from seqdni.state import LSTMState, State, leaves, state_size


class Trace(NamedTuple):
    """The states that a chunk passed through and, after its backward pass, their gradients.

    Args:
        states_TBS: the packed state that enters each step, without a graph.
        probes: zeros ``[steps, B, S]`` that were added to those states, a tensor for each piece of
            the chunk. After the backward pass their ``grad`` is the gradient of the states.
        inputs_TBD: the core's input at each step, without a graph; None where it is not kept.
    """

    states_TBS: Tensor
    probes: tuple[Tensor, ...]
    inputs_TBD: Tensor | None = None

    def grads(self) -> Tensor:
        r"""The gradient of all loss at steps :math:`\ge t` with respect to the state entering t.

        Returns:
            ``d objective / d state`` as ``[T, B, S]``, through the recurrent path only (the output
            at that state belongs to the step before); zero where no gradient arrived. Entry 0 is
            what :func:`seqdni.target_grad` returns for the chunk's start, except in rows that
            restart there.

        Example:
            >>> state = torch.zeros(1, 2, 3)
            >>> y, _, trace = run_traced(nn.GRU(1, 3), torch.ones(4, 2, 1), state)
            >>> y[1].sum().backward()
            >>> trace.grads().shape, trace.grads().flatten(1).any(dim=1)
            (torch.Size([4, 2, 3]), tensor([ True,  True, False, False]))
        """
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.probes]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def join_traces(traces: list[Trace]) -> Trace:
    """Join the traces of the consecutive pieces of a chunk into one."""
    if len(traces) == 1:
        return traces[0]
    probes = tuple(probe for trace in traces for probe in trace.probes)
    states_TBS = torch.cat([trace.states_TBS for trace in traces])
    inputs = [trace.inputs_TBD for trace in traces if trace.inputs_TBD is not None]
    return Trace(states_TBS, probes, torch.cat(inputs) if len(inputs) == len(traces) else None)


def can_run_traced(rnn: nn.Module) -> bool:
    """Whether :func:`run_traced` can run a network.

    Args:
        rnn: any module.

    Returns:
        True for a time-major ``nn.LSTM`` or ``nn.GRU`` in one direction, without dropout, without
        a projection, and without hooks, as pruning has them.

    Example:
        >>> can_run_traced(nn.GRU(1, 1, num_layers=2)), can_run_traced(nn.RNN(1, 1))
        (True, False)
    """
    return isinstance(rnn, (nn.LSTM, nn.GRU)) and not (
        rnn.bidirectional or rnn.batch_first or rnn.dropout or rnn.proj_size or has_hooks(rnn)
    )


def run_traced(
    rnn: nn.Module, x_TBD: Tensor, state: State, layers: Layers = BY_TORCH
) -> tuple[Tensor, State, Trace]:
    """Run a chunk like ``rnn(x_TBD, state)``, and trace its states.

    It computes in the type of the weights, also under autocast, and has no second derivative.

    Args:
        rnn: ``nn.LSTM`` or ``nn.GRU``, any number of layers.
        x_TBD: inputs.
        state: the state before the first step: :class:`LSTMState`, or ``[L, B, H]``.
        layers: what runs a layer.

    Returns:
        Outputs ``[T, B, H]`` of the last layer, the state after the last step, and the trace.

    Raises:
        ValueError: :func:`can_run_traced` is False for the network.

    Example:
        >>> lstm, x = nn.LSTM(2, 3), torch.ones(4, 1, 2)
        >>> start = LSTMState(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))
        >>> y, end, trace = run_traced(lstm, x, start)
        >>> torch.allclose(y, lstm(x, start)[0], atol=1e-6), trace.states_TBS.shape
        (True, torch.Size([4, 1, 6]))
    """
    if not can_run_traced(rnn):
        raise ValueError(
            f"dense targets need a plain nn.LSTM or nn.GRU, got {rnn}; use one direction, "
            "time-major, dropout=0, proj_size=0 and no hooks, or boundary targets"
        )
    assert isinstance(rnn, (nn.LSTM, nn.GRU))
    dtype = rnn.all_weights[0][0].dtype
    with torch.autocast(x_TBD.device.type, enabled=False):
        inputs_TBD = x_TBD.to(dtype)
        shape = (*x_TBD.shape[:2], state_size(state))
        probe = inputs_TBD.new_zeros(()).expand(shape).requires_grad_()
        probes = probe.split(rnn.hidden_size, dim=2)
        y_TBH, end, entered = _run_layers(rnn, inputs_TBD, state, probes, rnn.all_weights, layers)
        packed = [layer for leaf in zip(*entered, strict=True) for layer in leaf]
        trace = Trace(torch.cat(packed, dim=2), (probe,), inputs_TBD.detach())
    return y_TBH, end, trace


def run_by_layers(
    rnn: nn.LSTM | nn.GRU,
    x_TBD: Tensor,
    state: State,
    layers: Layers = BY_TORCH,
    fixed_weights: bool = False,
) -> tuple[Tensor, State]:
    """Run a chunk like ``rnn(x_TBD, state)``, by functions that run one layer each.

    On a CPU the backward pass of ``nn.LSTM`` computes the gradients of the weights even where
    nobody asks for them. With ``fixed_weights`` this one does not, and takes about half the time.

    Args:
        rnn: one that :func:`can_run_traced`.
        x_TBD: inputs; where compiled layers run them, they may be symbols ``[T, B]`` of D.
        state: the state before the first step.
        layers: what runs a layer.
        fixed_weights: whether the backward pass stops before the weights.

    Returns:
        Outputs ``[T, B, H]`` of the last layer, and the state after the last step.

    Example:
        >>> gru, x = nn.GRU(2, 3), torch.ones(4, 1, 2)
        >>> start = torch.zeros(1, 1, 3, requires_grad=True)
        >>> run_by_layers(gru, x, start, fixed_weights=True)[0].sum().backward()
        >>> start.grad is not None, gru.weight_hh_l0.grad is None
        (True, True)
    """
    weights = rnn.all_weights
    if fixed_weights:
        weights = [[weight.detach() for weight in layer] for layer in weights]
    no_probes = [weights[0][0].new_zeros(())] * len(leaves(state)) * rnn.num_layers
    y_TBH, end, _ = _run_layers(rnn, x_TBD, state, no_probes, weights, layers)
    return y_TBH, end


def _run_layers(
    rnn: nn.LSTM | nn.GRU,
    y_TBH: Tensor,
    state: State,
    probes: Sequence[Tensor],
    weights_of_layers: Sequence[Sequence[Tensor]],
    layers: Layers,
) -> tuple[Tensor, State, list[list[Tensor]]]:
    """Outputs, the last state, and by layer the states that enter each step."""
    run_layer = layers.lstm if isinstance(rnn, nn.LSTM) else layers.gru
    dtype = weights_of_layers[0][0].dtype
    starts = [leaf.to(dtype).unbind(0) for leaf in leaves(state)]
    shape = [len(weights_of_layers)] * (2 if isinstance(rnn, nn.LSTM) else 1)
    if [len(start) for start in starts] != shape:
        raise ValueError(
            f"got a state of {len(starts)} tensors with {[len(start) for start in starts]} layers, "
            f"expected {len(shape)} with {shape}, as initial_state() makes it"
        )
    ends, entered = [], []
    for layer, weights in enumerate(weights_of_layers):
        start = [leaf[layer] for leaf in starts]
        probes_of_layer = probes[layer :: rnn.num_layers]
        biases = () if rnn.bias else (None, None)
        y_TBH, *states = run_layer(y_TBH, *start, *probes_of_layer, *weights, *biases)
        ends.append(states[: len(start)])
        entered.append(states[len(start) :])
    end = [torch.stack(leaf) for leaf in zip(*ends, strict=True)]
    return y_TBH, LSTMState(*end) if isinstance(rnn, nn.LSTM) else end[0], entered
