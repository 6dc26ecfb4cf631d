"""From options to synthesizers, the boundaries that they serve, and how they learn.

To add a synthesizer to the command line, add its name to :data:`SynthesizerName` and to
:data:`KINDS`, and build it in :func:`build_synthesizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import seqdni
from seqdni.recipes.device import device_of

if TYPE_CHECKING:
    from torch import Tensor

    from seqdni import Boundary, Synthesizer, SyntheticGradients
    from seqdni.recipes.known_answers import KnownAnswers

SynthesizerName: TypeAlias = Literal["rls", "critic", "whitened", "mlp", "linear", "none"]
KINDS = {  # what --help says of each
    "rls": "linear, solved by recursive least squares",
    "critic": "predicts the coming answers, and gives the gradient of their loss (for tasks whose "
    "answers come last)",
    "whitened": "one hidden tanh layer on the whitened state, trained by Adam",
    "mlp": "one hidden ReLU layer on the state, trained by Adam (the paper's)",
    "linear": "no hidden layer, trained by Adam",
    "none": "no synthesizer, only the steps of --look-ahead",
}
MLPS = ("whitened", "mlp", "linear")
REGRESSING = ("rls", *MLPS)  # those that learn from gradients
DESCENDED = (*MLPS, "critic")  # those that gradient descent trains
LEARNING = ("rls", *DESCENDED)
SYNTHESIZERS = tuple(KINDS)


def control_of(options: Any) -> Callable[[Tensor], Tensor] | None:
    """The control that ``--control`` names.

    Args:
        options: of the run.

    Returns:
        What changes the predictions; None for no control.
    """
    controls = seqdni.controls
    named = {"shuffled": controls.shuffled, "batch-mean": controls.batch_mean}
    return {None: None, **named, "zero": controls.zero}[options.control]


def build_synthesizer(
    options: Any,
    size: int,
    condition_size: int = 0,
    aux: bool = False,
    known: KnownAnswers | None = None,
) -> Synthesizer | None:
    """The synthesizer that the options ask for.

    Args:
        options: its kind and its settings.
        size: of the packed state that it reads.
        condition_size: of what else it sees.
        aux: whether it has the auxiliary task.
        known: what a critic predicts.

    Returns:
        The synthesizer, or None where there is none.
    """
    if options.synthesizer == "none":
        return None
    if options.synthesizer == "critic":
        assert known is not None
        return known.critic(size)
    if options.synthesizer == "rls":
        return seqdni.LeastSquares(
            size,
            condition_size=condition_size,
            forgetting=options.forgetting,
            ridge=options.ridge,
            solve_every=options.solve_every,
        )
    from torch import nn  # not for the help of the options

    wide = options.synth_hidden or -(-options.hidden // 2)
    return seqdni.MLPSynthesizer(
        size,
        condition_size=condition_size,
        hidden_sizes=() if options.synthesizer == "linear" else (wide,),
        aux=aux,
        activation=nn.Tanh if options.synthesizer == "whitened" else nn.ReLU,
        whitening=seqdni.Whitening(size) if options.synthesizer == "whitened" else None,
    )


def build_boundary(
    options: Any,
    size: int,
    condition_size: int = 0,
    scale: float | None = None,
    aux: bool = False,
    known: KnownAnswers | None = None,
) -> Boundary:
    """A boundary with the synthesizer that the options ask for.

    Args:
        options: the synthesizer's settings, bound, control, device.
        size: of what is cut there, packed.
        condition_size: of what else the synthesizer sees.
        scale: of what is consumed; None: ``grad_scale``.
        aux: whether the synthesizer has the auxiliary task.
        known: what a critic predicts.

    Returns:
        The boundary on the options' device.
    """
    synthesizer = build_synthesizer(options, size, condition_size, aux, known)
    consumed: float = options.grad_scale if scale is None else scale
    bound = None if options.synthesizer == "critic" else options.bound
    boundary = seqdni.Boundary(synthesizer, consumed, bound, control_of(options))
    return boundary.to(device_of(options))


def synthetic_gradients(options: Any, boundary: Boundary) -> SyntheticGradients:
    """How a boundary's synthesizer learns, as the options ask for it.

    Args:
        options: the synthesizer's settings.
        boundary: with its synthesizer.
    """
    from torch.optim import Adam  # not for the help of the options

    targets, fraction = options.targets, options.train_fraction
    if boundary.synthesizer is None:
        targets, fraction = "boundary", 1.0
    descent = options.synthesizer in DESCENDED and boundary.synthesizer is not None
    return seqdni.SyntheticGradients(
        boundary,
        Adam(boundary.parameters(), lr=options.synth_lr, fused=True) if descent else None,
        clip=options.synth_clip if descent else None,
        warmup_chunks=options.warmup_chunks,
        targets=targets,
        updates_per_chunk=options.updates_per_chunk if descent else 1,
        train_fraction=fraction,
        audit=seqdni.Audit(options.audit_every) if options.audit_every else None,
    )
