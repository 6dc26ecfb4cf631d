"""Builds a model and its trainer from the options of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqdni import (
    LRU,
    Learner,
    OneHot,
    SequenceModel,
    Stack,
    TorchCore,
    Trainer,
    cross_entropy,
    squared_error,
)
from seqdni.recipes.checkpoint import Damaged, check_weights
from seqdni.recipes.common_options import RunOptions
from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError, one_line
from seqdni.recipes.known_answers import KnownAnswers
from seqdni.recipes.processes import together
from seqdni.recipes.trainers import way_of

CORES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def build_model(
    options: RunOptions, inputs: int, outputs: int, tokens: bool = True
) -> SequenceModel:
    """Build a model with one-hot tokens or real features as input, and a linear readout.

    Args:
        options: core, sizes, seed, device.
        inputs: number of input symbols, or of features.
        outputs: number of output symbols, or of real values.
        tokens: whether the inputs are symbols.

    Returns:
        The model on its device.
    """
    torch.manual_seed(options.seed)
    core = build_core(options, inputs)
    readout = nn.Linear(options.hidden, outputs)
    encoder = OneHot(inputs) if tokens else nn.Identity()
    return SequenceModel(encoder, core, readout).to(device_of(options))


def build_core(options: RunOptions, inputs: int, dropout: float = 0.0) -> TorchCore | Stack | LRU:
    """Build the recurrent layers, with random weights of torch's generator.

    Args:
        options: core, sizes.
        inputs: number of input features.
        dropout: rate of the dropout between the layers.

    Returns:
        The core: one torch module for all layers, or a :class:`seqdni.Stack` if there is dropout
        between them; or a :class:`seqdni.LRU`, of one layer.
    """
    if options.core == "lru":
        return LRU(inputs, options.hidden)
    rnn, hidden = CORES[options.core], options.hidden
    if dropout and options.layers > 1:
        sizes = [inputs, *[hidden] * (options.layers - 1)]
        rnns = [rnn(size, hidden) for size in sizes]
        core = Stack([_torch_core(each, options) for each in rnns], dropout)
    else:
        rnns = [rnn(inputs, hidden, num_layers=options.layers)]
        core = _torch_core(rnns[0], options)
    if options.core == "lstm":
        for each in rnns:
            if options.chrono_steps:
                _set_memory_spans(each, options.chrono_steps)
            elif options.forget_bias:
                _add_forget_bias(each, options.forget_bias)
    return core


def _torch_core(rnn: nn.LSTM | nn.GRU | nn.RNN, options: RunOptions) -> TorchCore:
    try:
        return TorchCore(rnn, compiled=options.compiled)
    except RuntimeError as error:
        raise RunError(f"--compiled: {error}") from None


@torch.no_grad()
def _add_forget_bias(lstm: nn.LSTM, bias: float) -> None:
    for layer in range(lstm.num_layers):
        getattr(lstm, f"bias_hh_l{layer}").chunk(4)[1].add_(bias)


@torch.no_grad()
def _set_memory_spans(lstm: nn.LSTM, steps: int) -> None:
    """Biases of the gates with which the units remember for 1 to ``steps`` steps.

    Source: Tallec & Ollivier, Can recurrent neural networks warp time? (arXiv 1804.11188).
    """
    for layer in range(lstm.num_layers):
        getattr(lstm, f"bias_ih_l{layer}").zero_()
        input_H, forget_H = getattr(lstm, f"bias_hh_l{layer}").zero_().chunk(4)[:2]
        forget_H.uniform_(1, max(2, steps - 1)).log_()
        input_H.copy_(-forget_H)


def load_weights(saved: dict[str, Any], path: Path, options: Any, model: Any) -> None:
    """Put the weights of a checkpoint into a model.

    Args:
        saved: the checkpoint.
        path: of the checkpoint, for the message.
        options: of its run.
        model: built from the same options; this function changes its weights.

    Raises:
        RunError: the checkpoint does not fit the options.
    """
    try:
        own = model if "exported" in saved else way_of(options).wrap_model(options, model)
        weights = saved["trainer"]["model"]
        check_weights(weights, own.state_dict())
        own.load_state_dict(weights)
    except (Damaged, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise RunError(f"{path} does not fit its config.yaml: {one_line(error)}") from None


def loss_for(targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss for targets of a kind.

    Args:
        targets: ids, or real values ``[T, B]``.

    Returns:
        Cross-entropy for ids; for real values the squared error of the model's one output.
    """
    if targets.is_floating_point():
        return lambda outputs_TB1, targets_TB: squared_error(outputs_TB1, targets_TB[..., None])
    return cross_entropy


def optimizer_of(options: RunOptions, model: nn.Module) -> torch.optim.Optimizer:
    """The model's optimiser.

    Args:
        options: optimiser settings.
        model: the model that it trains.

    Returns:
        The optimiser.
    """
    settings = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=options.momentum, **settings)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), **settings)


def build_trainer(
    options: RunOptions,
    model: SequenceModel,
    loss_scale: float,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    known: KnownAnswers | None = None,
) -> Trainer:
    """Build the trainer that the options describe. (Full BPTT is TBPTT on whole episodes.)

    Args:
        options: trainer, synthesizer and optimiser settings.
        model: what is trained.
        loss_scale: see :class:`seqdni.Learner`.
        loss: ``(outputs, targets) -> [T, B]``.
        known: what a critic predicts.

    Returns:
        The trainer.
    """
    learner = Learner(
        optimizer_of(options, model),
        loss=loss,
        loss_scale=loss_scale,
        clip=options.clip,
        update_every=options.update_every,
        autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
    )
    way = way_of(options)
    credit, parallel = way.credit(options, model, known), together()
    if parallel is not None and options.capture:
        raise RunError("--capture is for one process alone; start the run without torchrun")
    wrapped = way.wrap_model(options, model)
    return Trainer(wrapped, learner, credit, parallel, capture=options.capture)
