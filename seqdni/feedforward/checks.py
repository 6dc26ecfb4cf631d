"""What a trainer of layers refuses: stages, batches and synthesizers that do not fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from seqdni.boundary import Boundary
from seqdni.feedforward.synthetic_input import SyntheticInput
from seqdni.synthetic_gradients import SyntheticGradients

ORDERS = ("forward", "reverse", "random")


def check_stages(stages: Sequence[nn.Module]) -> None:
    """Refuse a net without stages, and stages that no update of their own could train.

    Args:
        stages: of the net.

    Raises:
        ValueError: there is none, or one has no parameters to train or shares them with another.
    """
    if not stages:
        raise ValueError("the net has no stages, expected at least one module with parameters")
    seen: dict[int, int] = {}
    for index, stage in enumerate(stages):
        own = [p for p in stage.parameters() if p.requires_grad]
        if not own:
            raise ValueError(
                f"stage {index}, a {type(stage).__name__}, has no parameters to train, so that an "
                "update of it does nothing; put it into one stage with the module before or after "
                "it: nn.Sequential(nn.Linear(...), nn.ReLU())"
            )
        for parameter in own:
            if seen.setdefault(id(parameter), index) != index:
                raise ValueError(
                    f"stages {seen[id(parameter)]} and {index} share a parameter, expected each "
                    "stage to have its own: two updates would change it; put both into one stage"
                )


def check_credit(credit: Sequence[object], stages: int) -> None:
    """Refuse a wrong number of boundaries, and settings that only make sense in time.

    Args:
        credit: what was given for the cuts.
        stages: how many there are.

    Raises:
        TypeError: one is neither a boundary nor synthetic gradients.
        ValueError: the number is wrong, or a setting is for chunks of a sequence.
    """
    if len(credit) != stages - 1:
        raise ValueError(
            f"got {len(credit)} boundaries for {stages} stages, expected {stages - 1}: one between "
            "each two stages, [Boundary(...) for _ in net[:-1]]"
        )
    for index, each in enumerate(credit):
        if not isinstance(each, (Boundary, SyntheticGradients)):
            raise TypeError(
                f"got a {type(each).__name__} at cut {index}, expected a Boundary or "
                "SyntheticGradients: Boundary(LeastSquares(256))"
            )
        boundary = each if isinstance(each, Boundary) else each.boundary
        if boundary.aux:
            raise ValueError(
                f"the synthesizer at cut {index} has an Aux head, whose target lies in the next "
                "chunk of a sequence, and a net has none; build it with aux=False"
            )
        if isinstance(each, SyntheticGradients) and (
            each.audit is not None or each.targets != "boundary"
        ):
            raise ValueError(
                f"at cut {index} there is an audit or targets='dense', which are for chunks of a "
                "sequence; leave them out"
            )
    boundaries = [id(x if isinstance(x, Boundary) else x.boundary) for x in credit]  # type: ignore
    if len(set(boundaries)) < len(boundaries):
        raise ValueError("one boundary stands at two cuts, expected one of its own at each")


def check_inputs(inputs: Sequence[object] | None, stages: int) -> None:
    """Refuse a wrong number of synthetic inputs.

    Args:
        inputs: what was given; None: there are none.
        stages: how many there are.

    Raises:
        TypeError: one is something else.
        ValueError: the number is wrong.
    """
    if inputs is None:
        return
    if len(inputs) != stages - 1:
        raise ValueError(
            f"got {len(inputs)} synthetic inputs for {stages} stages, expected {stages - 1}: one "
            "for each stage but the first, which has the input of the net"
        )
    for index, each in enumerate(inputs):
        if not isinstance(each, SyntheticInput):
            raise TypeError(
                f"got a {type(each).__name__} as the synthetic input of stage {index + 1}, "
                "expected a SyntheticInput: SyntheticInput(MLPSynthesizer(784, output_size=256))"
            )


def check_order(order: str, update_probability: float) -> None:
    """Refuse an unknown order, and a probability out of range.

    Args:
        order: of the updates.
        update_probability: of each update.

    Raises:
        ValueError: one of them cannot be used.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}, expected one of {', '.join(map(repr, ORDERS))}")
    if not 0 < update_probability <= 1:
        raise ValueError(
            f"update_probability is {update_probability}, expected a number 0 < p <= 1"
        )


def check_batch(
    inputs: Tensor, targets: Tensor, condition: Tensor | None, modules: Iterable[nn.Module]
) -> None:
    """Refuse a batch whose tensors disagree about its rows, and one row where there is batch norm.

    Args:
        inputs: of the net.
        targets: for the loss.
        condition: for the synthesizers, or None.
        modules: the net and the synthesizers.

    Raises:
        ValueError: something does not fit.
    """
    named = {"inputs": inputs, "targets": targets, "condition": condition}
    rows = {name: x.shape[0] if x.dim() else 0 for name, x in named.items() if x is not None}
    if len(set(rows.values())) != 1 or not min(rows.values()):
        shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in named.items() if x is not None)
        raise ValueError(f"got {shapes}, expected the same number of rows, >= 1, as first axis")
    if rows["inputs"] > 1:
        return
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d) and part.training:
                raise ValueError(
                    "got one row, expected two or more: batch norm in training needs the variance "
                    "of the rows; leave out a last batch of one row (DataLoader(drop_last=True))"
                )


def check_condition(condition: Tensor | None, credit: Sequence[SyntheticGradients]) -> None:
    """Refuse a condition that is missing, that nothing reads, or that has another width.

    Args:
        condition: ``[B, K]``, or None.
        credit: at the cuts.

    Raises:
        ValueError: something does not fit.
    """
    sizes = {each.condition_size for each in credit} - {0}
    if condition is None:
        if sizes:
            raise ValueError(
                f"got no condition, expected one of {max(sizes)} features, because a synthesizer "
                f"was built with condition_size={max(sizes)}: step(x, y, condition=...)"
            )
        return
    if not sizes:
        raise ValueError(
            "got a condition that no synthesizer reads; build one with condition_size="
            f"{condition.shape[-1]}, or leave the condition out"
        )
    if condition.dim() != 2 or {condition.shape[1]} != sizes:
        wanted = " and ".join(f"[B, {size}]" for size in sorted(sizes))
        raise ValueError(
            f"got a condition of shape {list(condition.shape)}, expected {wanted}, the "
            "condition_size that the synthesizers were built with"
        )


def check_outputs(end: object, stage: int, rows: int) -> None:
    """Refuse an output of a stage that cannot be cut.

    Args:
        end: what the stage returned.
        stage: its number.
        rows: of the batch.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has no real numbers, or another number of rows.
    """
    if not isinstance(end, Tensor):
        raise TypeError(
            f"stage {stage} returned a {type(end).__name__}, expected one tensor [B, ...]; put "
            "branches inside of a stage, and join them at its end"
        )
    if not end.is_floating_point():
        raise ValueError(
            f"stage {stage} returned numbers of type {end.dtype}, expected floating point: no "
            "gradient passes through others"
        )
    if end.dim() < 2 or len(end) != rows:
        raise ValueError(
            f"stage {stage} returned the shape {list(end.shape)} for {rows} rows, expected "
            f"[{rows}, ...]: the rows are the first axis"
        )


@torch.no_grad()
def check_widths(
    stages: Sequence[nn.Module],
    inputs: Tensor,
    credit: Sequence[SyntheticGradients],
    synthetic_inputs: Sequence[SyntheticInput] | None,
) -> None:
    """Run the net once, and refuse synthesizers that were built for other widths.

    Args:
        stages: of the net. They run in evaluation mode, so that this changes nothing in them.
        inputs: a batch.
        credit: at the cuts.
        synthetic_inputs: of the stages after the first, or None.

    Raises:
        ValueError: a width does not fit; the message names the cut.
    """
    modes = [(part, part.training) for stage in stages for part in stage.modules()]
    end = inputs
    try:
        for index, stage in enumerate(stages):
            end = stage.eval()(end)
            check_outputs(end, index, len(inputs))
            if index == len(credit):
                break
            width, what = prod(end.shape[1:]), f"the activation at cut {index}"
            _check_width(credit[index].boundary.synthesizer, what, width, "the gradient", width)
            if synthetic_inputs is not None:
                synthetic = synthetic_inputs[index]
                shape = (width,) if synthetic.shape is None else synthetic.shape
                if shape != tuple(end.shape[1:]):
                    raise ValueError(
                        f"the synthetic input at cut {index} has the shape {list(shape)} a row, "
                        f"and the true one {list(end.shape[1:])}; give that as its shape"
                    )
                reads = prod(inputs.shape[1:])
                _check_width(synthetic.synthesizer, "the net's input", reads, what, width)
    finally:
        for part, training in modes:
            part.training = training


def _check_width(synthesizer: object, read: str, width: int, what: str, predicted: int) -> None:
    """Refuse a synthesizer that reads or predicts another width."""
    reads = getattr(synthesizer, "state_size", width)
    if reads != width:
        raise ValueError(
            f"a synthesizer was built with state_size={reads}, and {read} has {width} features a "
            f"row; build it with state_size={width}"
        )
    predicts = getattr(synthesizer, "output_size", predicted)
    if predicts != predicted:
        raise ValueError(
            f"a synthesizer that reads {read} was built with output_size={predicts}, and "
            f"{what} has {predicted} features a row; build it with output_size={predicted}"
        )
