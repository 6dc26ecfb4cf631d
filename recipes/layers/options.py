"""The options of recipe ``layers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seqdni.recipes.apart import DRAWS, STOPS, refuse
from seqdni.recipes.common_options import RunOptions, absolute
from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.option_field import check_values, option, same_option

CLASSES = 10
WAYS = ("backprop", "none", "dni", "cdni", "unlock")
SYNTHETIC = ("dni", "cdni", "unlock")  # with a synthesizer at each cut
ADAM = ("linear", "mlp", "conv", "critic")  # synthesizers that Adam trains
RATES = {"linear": 1e-3, "mlp": 3e-3, "conv": 0.01, "critic": 1e-3}


def kind_of(options: Options) -> str | None:
    """The kind of the synthesizers.

    Args:
        options: of the run.

    Returns:
        As in ``--synthesizer``; None where there are no synthesizers, or each way has its own.
    """
    if options.trainer not in SYNTHETIC or options.synthesizer is not None:
        return options.synthesizer
    if options.trainer == "dni":  # without the label
        return "conv" if options.net == "cnn" else "mlp"
    return "critic" if options.trainer == "unlock" or options.net == "cnn" else "rls"


def stages_of(options: Options) -> int:
    """How many parts of the net have an update of their own.

    Args:
        options: of the run.
    """
    return 3 if options.net == "cnn" else options.hidden_layers + 1


def reads_label(options: Options) -> bool:
    """Whether the synthesizers read the label as their condition.

    Args:
        options: of the run.
    """
    return options.trainer in ("cdni", "unlock")


def for_synthetic(default: Any, help: str, kinds: tuple[str, ...] = (), **limits: Any) -> Any:
    """An option that has an effect only with synthesizers, perhaps of some kinds only."""

    def only(options: Options) -> bool:
        kind = kind_of(options)
        here = options.trainer in (*SYNTHETIC, "all")
        return here and (not kinds or kind is None or kind in kinds)

    when = f"--trainer {', '.join(SYNTHETIC[:-1])} or {SYNTHETIC[-1]}"
    if kinds:
        when += f" with --synthesizer {' or '.join(kinds)}"
    return option(default, help, only=only, when=when, **limits)


@dataclass
class Options:
    """Options of ``seqdni run layers``."""

    recipe: Literal["layers"] = "layers"
    trainer: Literal["backprop", "none", "dni", "cdni", "unlock", "all"] = option(
        "cdni",
        "way of training. backprop: one graph and one update of the whole net; none: the graph is "
        "cut after each layer, so that only the last one learns; dni: each layer learns from a "
        "gradient predicted from its output; cdni: from its output and the label; unlock: as cdni, "
        "and each layer also computes with a predicted input; all: the five one after another, "
        "each in a folder of its own",
    )
    data_dir: str | None = option(
        None, "folder with the four files of MNIST; null: the small digits of scikit-learn"
    )
    net: Literal["mlp", "cnn"] = option(
        "mlp",
        "kind of net. mlp: --hidden-layers linear layers with batch norm and ReLU, and a linear "
        "one; cnn: two convolutional layers with batch norm, ReLU and pooling, and a linear one",
    )
    hidden_layers: int = option(
        3,
        "number of hidden layers",
        at_least=1,
        only=lambda options: options.net == "mlp",
        when="--net mlp",
    )
    hidden: int = option(
        256,
        "number of units of each hidden layer",
        at_least=1,
        only=lambda options: options.net == "mlp",
        when="--net mlp",
    )
    channels: int = option(
        16,
        "channels of the first convolutional layer; the second one has twice as many",
        at_least=1,
        only=lambda options: options.net == "cnn",
        when="--net cnn",
    )
    init_from: str | None = same_option(RunOptions, "init_from")
    batch: int = option(64, "B: number of images of a batch", at_least=2)
    lr: float = option(1e-3, "learning rate of Adam for the layers", above=0)
    schedule: Literal["constant", "steps"] = option(
        "steps",
        "how the learning rates change. steps: divided by 10 at 60% and at 80% of the run",
    )
    clip: float | None = option(
        None, "largest norm of the gradient of a layer; null: no limit", above=0
    )
    order: Literal["forward", "reverse", "random"] = option(
        "forward",
        "order in which the layers are updated at each step. random: drawn anew at each step",
        only=lambda options: options.trainer != "backprop",
        when="a --trainer other than backprop",
    )
    update_probability: float = option(
        1.0,
        "probability p with which a layer is updated at a step",
        above=0,
        at_most=1,
        only=lambda options: options.trainer != "backprop",
        when="a --trainer other than backprop",
    )
    apart: Literal["threads", "processes"] | None = option(
        None,
        "how the layers work at the same time. threads: each in a thread of its own; processes: "
        "each in a process of its own, which torchrun starts; null: one after another. " + STOPS,
        only=lambda options: options.trainer not in ("backprop", "all"),
        when="a --trainer other than backprop and all",
    )
    staleness: int = option(
        0,
        "steps by which a synthesizer lags behind when it predicts, so that layers wait less for "
        "each other. 0: the result is that of layers one after another, bit for bit",
        at_least=0,
        only=lambda options: options.apart is not None,
        when="--apart threads or processes",
    )
    synthesizer: Literal["rls", "linear", "mlp", "conv", "critic"] | None = for_synthetic(
        None,
        "the synthesizers, which predict gradients. rls: linear, solved by recursive least "
        "squares; linear: linear, trained by Adam (the paper's, with the label); mlp: hidden ReLU "
        "layers with batch norm, by Adam (the paper's, without it); conv: convolutional layers on "
        "the maps of --net cnn, by Adam; critic: predicts the label, and gives the gradient of "
        "that loss; null: rls, or critic with --net cnn or --trainer unlock; mlp with --trainer "
        "dni, or conv with --net cnn",
    )
    forgetting: float = for_synthetic(
        0.9,
        "factor on the weight of all earlier data at each update of least squares",
        ("rls",),
        above=0,
        at_most=1,
    )
    ridge: float = for_synthetic(
        1e-4,
        "damping of least squares, as a fraction of each feature's sum of squares",
        ("rls",),
        above=0,
    )
    solve_every: int | None = for_synthetic(
        4,
        "updates of least squares from one solution to the next; null: a 32nd of the number of "
        "features",
        ("rls",),
        at_least=1,
    )
    synth_layers: int = for_synthetic(
        1, "number of hidden layers of a synthesizer", ("mlp", "conv"), at_least=1
    )
    synth_hidden: int | None = for_synthetic(
        None,
        "units of a hidden layer of a synthesizer, or its channels; null: 1024 units, 64 channels",
        ("mlp", "conv"),
        at_least=1,
    )
    synth_lr: float | None = for_synthetic(
        None,
        "learning rate of Adam for the synthesizers; null: 0.003 for mlp, 0.01 for conv, 0.001 for "
        "linear and the critic",
        ADAM,
        above=0,
    )
    input_hidden: int = option(
        512,
        "units of the hidden layer that predicts the input of a layer",
        at_least=1,
        only=lambda options: options.trainer in ("unlock", "all"),
        when="--trainer unlock",
    )
    input_lr: float = option(
        1e-3,
        "learning rate of Adam for what predicts the inputs of the layers",
        above=0,
        only=lambda options: options.trainer in ("unlock", "all"),
        when="--trainer unlock",
    )
    grad_scale: float = for_synthetic(
        1.0, "factor on the synthetic gradient that a layer gets", at_least=0
    )
    bound: float | None = for_synthetic(
        None,
        "limit of the root mean square of a row's synthetic gradient, as a multiple of that of the "
        "gradients at the last cut; null: no limit",
        above=0,
    )
    control: Literal["shuffled", "batch-mean", "zero"] | None = for_synthetic(
        None,
        "a control for experiments, which changes the gradients that rows get. shuffled: those of "
        "other rows; batch-mean: the mean of all rows; zero: none",
    )
    precision: Literal["float32", "bfloat16"] = same_option(RunOptions, "precision")
    seed: int = same_option(RunOptions, "seed")
    epochs: float | None = option(
        20.0, "stop after this many passes through the training images", above=0
    )
    updates: int | None = option(None, "stop after this many updates of the last layer", at_least=1)
    max_seconds: float | None = same_option(RunOptions, "max_seconds")
    evaluate_every: int = option(
        100,
        "updates from one evaluation on held-out images to the next; it takes place with a row of "
        "--log-every",
        at_least=1,
    )
    device: str = same_option(RunOptions, "device")
    threads: int | None = same_option(RunOptions, "threads")
    log_every: int = option(50, "updates between two rows of metrics.jsonl", at_least=1)
    checkpoint_seconds: float = same_option(RunOptions, "checkpoint_seconds")
    out: str | None = option(None, "folder of the run; null: runs/layers/TIME")


def prepare(options: Options) -> None:
    """Refuse what cannot work, before any data is read, and make paths absolute.

    Args:
        options: the options of the run, which this function changes.

    Raises:
        RunError: an option cannot be used; the message names it.
    """
    check_values(options)
    kind = kind_of(options)
    if options.trainer == "dni" and kind == "critic":
        raise RunError("--synthesizer critic reads the label; use it with --trainer cdni")
    if options.net == "mlp" and kind == "conv":
        raise RunError("--synthesizer conv is for the maps of --net cnn; use mlp, or --net cnn")
    if options.apart is not None:
        _check_apart(options)
    options.synthesizer = kind  # type: ignore[assignment]
    if options.synth_lr is None and kind in RATES:
        options.synth_lr = RATES[kind]
    device_of(options)
    if options.data_dir is not None:
        options.data_dir = absolute(options.data_dir)


def _check_apart(options: Options) -> None:
    """Refuse what layers that work apart cannot do."""
    refuse(options.order != "forward", "--order", "each layer is updated when its output exists")
    refuse(options.bound is not None, "--bound", "its level comes from the last layer at each step")
    refuse(options.control == "shuffled", "--control shuffled", DRAWS)
