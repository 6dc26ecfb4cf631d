"""From options to a model and its trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from seqdni.recipes.checkpoint import Damaged, check_weights
from seqdni.recipes.errors import RunError, one_line
from seqdni.recipes.options import DESCENDED, RunOptions, device_of
from torch import Tensor, nn

from seqdni import (
    Boundary,
    Checkpointed,
    Learner,
    LeastSquares,
    MLPSynthesizer,
    Model,
    OneHot,
    Overlap,
    RandomTruncation,
    Reweighted,
    SequenceModel,
    Stack,
    Synthesizer,
    SyntheticGradients,
    TorchCore,
    Trainer,
    Whitening,
    controls,
    cross_entropy,
    squared_error,
    state_size,
)

CONTROLS = {
    None: None,
    "shuffled": controls.shuffled,
    "batch-mean": controls.batch_mean,
    "zero": controls.zero,
}
CORES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def build_model(
    options: RunOptions, inputs: int, outputs: int, tokens: bool = True
) -> SequenceModel:
    """One-hot tokens or real features, the recurrent core, a linear readout, from the seed.

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


def build_core(options: RunOptions, inputs: int, dropout: float = 0.0) -> TorchCore | Stack:
    """The recurrent layers, initialised from torch's random state.

    Args:
        options: core, sizes.
        inputs: features that it takes.
        dropout: between the layers.

    Returns:
        The core, in one piece where there is no dropout between layers.
    """
    rnn, hidden = CORES[options.core], options.hidden
    if dropout and options.layers > 1:
        sizes = [inputs, *[hidden] * (options.layers - 1)]
        rnns = [rnn(size, hidden) for size in sizes]
        core = Stack([TorchCore(each) for each in rnns], dropout)
    else:
        rnns = [rnn(inputs, hidden, num_layers=options.layers)]
        core = TorchCore(rnns[0])
    if options.forget_bias and options.core == "lstm":
        with torch.no_grad():
            for each in rnns:
                for layer in range(each.num_layers):
                    getattr(each, f"bias_hh_l{layer}")[hidden : 2 * hidden] += options.forget_bias
    return core


def load_weights(saved: dict[str, Any], path: Path, options: Any, model: Any) -> None:
    """Put the weights of a trained model into one built alike.

    Args:
        saved: a checkpoint of its run.
        path: of that checkpoint, for the message.
        options: of its run.
        model: built by these; takes the weights.

    Raises:
        RunError: the checkpoint does not fit the options.
    """
    own = model if "exported" in saved else _wrapped(options, model)
    try:
        weights = saved["trainer"]["model"]
        check_weights(weights, own.state_dict())
        own.load_state_dict(weights)
    except (Damaged, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise RunError(f"{path} does not fit its config.yaml: {one_line(error)}") from None


def _wrapped(options: Any, model: SequenceModel) -> Model:
    """What the trainer trains: the model, in pieces or reweighted where the options ask for it."""
    if getattr(options, "recompute", False):  # a hierarchy has no such option
        return Checkpointed(model, options.chunk_len)
    if options.trainer == "random":
        return Reweighted(model, options.chunk_len, options.cut_probability)
    return model


def build_stream(options: RunOptions, chunks: Any) -> Any:
    """The stream that is trained on and saved.

    Args:
        options: trainer, seed.
        chunks: a stream with ``state_dict`` and ``load_state_dict``.

    Returns:
        The stream itself; cut at random where the options ask for it, with the stream as its
        ``chunks``.
    """
    if options.trainer == "random":
        return RandomTruncation(chunks, options.cut_probability, options.seed)
    return chunks


def loss_for(targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that targets are for.

    Args:
        targets: ids, or real values ``[T, B]``.

    Returns:
        Cross-entropy; for real values the squared error of the one output.
    """
    if targets.is_floating_point():
        return lambda outputs_TB1, targets_TB: squared_error(outputs_TB1, targets_TB[..., None])
    return cross_entropy


def optimizer_of(options: RunOptions, model: nn.Module) -> torch.optim.Optimizer:
    """The model's optimiser.

    Args:
        options: optimiser settings.
        model: what it moves.

    Returns:
        The optimiser.
    """
    settings = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=options.momentum, **settings)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), **settings)


def build_synthesizer(options: Any, size: int, condition_size: int = 0) -> Synthesizer | None:
    """The synthesizer that the options ask for.

    Args:
        options: its kind and its settings.
        size: of the packed state that it reads.
        condition_size: of what else it sees.

    Returns:
        The synthesizer, or None where there is none.
    """
    if options.synthesizer == "none":
        return None
    if options.synthesizer == "rls":
        return LeastSquares(
            size,
            condition_size=condition_size,
            forgetting=options.forgetting,
            ridge=options.ridge,
            solve_every=options.solve_every,
        )
    wide = options.synth_hidden or -(-options.hidden // 2)
    return MLPSynthesizer(
        size,
        condition_size=condition_size,
        hidden_sizes=() if options.synthesizer == "linear" else (wide,),
        aux=options.trainer == "dni-aux",
        activation=nn.Tanh if options.synthesizer == "whitened" else nn.ReLU,
        whitening=Whitening(size) if options.synthesizer == "whitened" else None,
    )


def build_boundary(
    options: Any, size: int, condition_size: int = 0, scale: float | None = None
) -> Boundary:
    """A boundary with the synthesizer that the options ask for.

    Args:
        options: the synthesizer's settings, bound, control, device.
        size: of what is cut there, packed.
        condition_size: of what else the synthesizer sees.
        scale: of what is consumed; None: ``grad_scale``.

    Returns:
        The boundary on the options' device.
    """
    synthesizer = build_synthesizer(options, size, condition_size)
    consumed: float = options.grad_scale if scale is None else scale
    boundary = Boundary(synthesizer, consumed, options.bound, CONTROLS[options.control])
    return boundary.to(device_of(options))


def build_trainer(
    options: RunOptions,
    model: SequenceModel,
    loss_scale: float,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Trainer:
    """The trainer that the options ask for; full BPTT is TBPTT on whole episodes.

    Args:
        options: trainer, synthesizer and optimiser settings.
        model: what is trained.
        loss_scale: see :class:`seqdni.Trainer`.
        loss: per step, of the model's outputs and the targets.

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
    if options.trainer == "overlap":
        return Trainer(model, learner, Overlap(options.history))
    if options.trainer in ("bptt", "tbptt", "random"):
        return Trainer(_wrapped(options, model), learner)
    boundary = build_boundary(options, state_size(model.initial_state(1)))
    return Trainer(model, learner, synthetic_gradients(options, boundary))


def synthetic_gradients(options: Any, boundary: Boundary) -> SyntheticGradients:
    """How a boundary's synthesizer learns, as the options ask for it.

    Args:
        options: the synthesizer's settings.
        boundary: with its synthesizer.
    """
    targets, fraction = options.targets, options.lessons
    if boundary.synthesizer is None:
        targets, fraction = "boundary", 1.0
    descent = options.synthesizer in DESCENDED and boundary.synthesizer is not None
    adam = torch.optim.Adam
    return SyntheticGradients(
        boundary,
        adam(boundary.parameters(), lr=options.synth_lr, fused=True) if descent else None,
        clip=options.synth_clip if descent else None,
        warmup_chunks=options.warmup_chunks,
        targets=targets,
        updates_per_chunk=options.synth_steps if descent else 1,
        train_fraction=fraction,
    )
