"""The nets of recipe ``layers``, and their trainers."""

from __future__ import annotations

from math import isqrt, prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqdni import (
    Boundary,
    ConvSynthesizer,
    Critic,
    LayerTrainer,
    LeastSquares,
    MLPSynthesizer,
    Synthesizer,
    SyntheticInput,
)
from seqdni.recipes.device import device_of
from seqdni.recipes.layers.options import CLASSES, SYNTHETIC, Options, reads_label
from seqdni.recipes.synthesizers import control_of

WIDE, MANY = 1024, 64  # units and channels of a synthesizer's hidden layer


def build_net(options: Options, pixels: int) -> nn.Sequential:
    """Build the net, with random weights drawn from the seed.

    Args:
        options: kind and sizes.
        pixels: of an image.

    Returns:
        The stages in their order, on the options' device.
    """
    torch.manual_seed(options.seed)
    if options.net == "cnn":
        side, few, many = isqrt(pixels), options.channels, 2 * options.channels
        stages = [
            nn.Sequential(nn.Unflatten(1, (1, side, side)), *_convolution(1, few)),
            nn.Sequential(*_convolution(few, many)),
            nn.Sequential(nn.Flatten(), nn.Linear(many * (side // 4) ** 2, CLASSES)),
        ]
    else:
        widths = [pixels, *[options.hidden] * (options.hidden_layers - 1)]
        stages = [
            nn.Sequential(
                nn.Linear(width, options.hidden), nn.BatchNorm1d(options.hidden), nn.ReLU()
            )
            for width in widths
        ]
        stages.append(nn.Sequential(nn.Linear(options.hidden, CLASSES)))
    return nn.Sequential(*stages).to(device_of(options))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def build_trainer(options: Options, net: nn.Sequential, pixels: int) -> LayerTrainer:
    """Build the trainer that the options describe.

    Args:
        options: of the run.
        net: what is trained.
        pixels: of an image.

    Returns:
        The trainer. Back-propagation is the trainer of one stage, the whole net.
    """
    shapes = _shapes(net, pixels)
    credit = [_boundary(options, shape) for shape in shapes]
    inputs = None
    if options.trainer == "unlock":
        inputs = [_input(options, pixels, shape) for shape in shapes]
    whole = options.trainer == "backprop"
    return LayerTrainer(
        [net] if whole else net,
        [] if whole else credit,
        lambda parameters: torch.optim.Adam(parameters, lr=options.lr),
        functional.cross_entropy,
        order=options.order,
        update_probability=options.update_probability,
        inputs=inputs,
        clip=options.clip,
        autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
        seed=options.seed,
    )


def rates_of(options: Options, trainer: LayerTrainer) -> list[float]:
    """The learning rates, as the options give them.

    Args:
        options: of the run.
        trainer: built from them.

    Returns:
        One for each of ``trainer.optimizers()``.
    """
    descended = sum(synthetic.optimizer is not None for synthetic in trainer.credit)
    synth_lr = options.lr if options.synth_lr is None else options.synth_lr
    inputs = len(trainer.inputs or [])
    return [
        *[options.lr] * len(trainer.stages),
        *[synth_lr] * descended,
        *[options.input_lr] * inputs,
    ]


@torch.no_grad()
def _shapes(net: nn.Sequential, pixels: int) -> list[tuple[int, ...]]:
    """The shape of each activation that is cut, for one row."""
    end, shapes = torch.zeros(1, pixels, device=next(net.parameters()).device), []
    net.eval()
    for stage in list(net)[:-1]:
        end = stage(end)
        shapes.append(tuple(end.shape[1:]))
    net.train()
    return shapes


def _boundary(options: Options, shape: tuple[int, ...]) -> Boundary:
    synthesizer = _synthesizer(options, shape) if options.trainer in SYNTHETIC else None
    boundary = Boundary(synthesizer, options.grad_scale, options.bound, control_of(options))
    return boundary.to(device_of(options))


def _synthesizer(options: Options, shape: tuple[int, ...]) -> Synthesizer:
    size, told = prod(shape), CLASSES if reads_label(options) else 0
    if options.synthesizer == "critic":
        return Critic(size, CLASSES)
    if options.synthesizer == "rls":
        return LeastSquares(
            size,
            condition_size=told,
            forgetting=options.forgetting,
            ridge=options.ridge,
            solve_every=options.solve_every,
        )
    if options.synthesizer == "conv":
        channels = [options.synth_hidden or MANY] * options.synth_layers
        return ConvSynthesizer(shape, channels, condition_size=told)
    hidden = [options.synth_hidden or WIDE] * options.synth_layers
    linear = options.synthesizer == "linear"
    return MLPSynthesizer(
        size, () if linear else hidden, condition_size=told, scaled=False, batch_norm=not linear
    )


def _input(options: Options, pixels: int, shape: tuple[int, ...]) -> SyntheticInput:
    synthesizer = MLPSynthesizer(
        pixels, (options.input_hidden,), output_size=prod(shape), batch_norm=True
    )
    return SyntheticInput(synthesizer, shape, torch.relu).to(device_of(options))


def errors(net: nn.Module, pixels_nP: Tensor, labels_n: Tensor, rows: int = 1000) -> dict:
    """How many images the net names wrongly, and the loss.

    Args:
        net: connected, as it is used.
        pixels_nP: images, from 0 to 1.
        labels_n: what they show.
        rows: of a batch.

    Returns:
        ``error``, a share, and ``bits`` an image.
    """
    device, training = next(net.parameters()).device, net.training
    net.eval()
    with torch.no_grad():
        outputs_nC = torch.cat([net(part.to(device)) for part in pixels_nP.split(rows)]).cpu()
    net.train(training)
    wrong = outputs_nC.argmax(1) != labels_n
    nats = functional.cross_entropy(outputs_nC.double(), labels_n)
    return {"error": wrong.double().mean().item(), "nats": nats.item()}
