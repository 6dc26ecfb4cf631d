"""The options of recipe ``count-digits``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqdni.recipes.device import device_of
from seqdni.recipes.option import check_values, option, same_option
from seqdni.recipes.options import RunOptions
from seqdni.recipes.synthesizers import DESCENDED

WAYS = ("joint", "dni", "no-feedback")


def for_decoupled(default: Any, help: str, kinds: tuple[str, ...] = (), **limits: Any) -> Any:
    """An option of runs with synthesizers, of some kinds; see ``option`` in option.py."""

    def only(options: Options) -> bool:
        bridged = options.trainer == "no-feedback" and options.grad_scale > 0
        decoupled = options.trainer in ("dni", "all") or bridged
        return decoupled and (not kinds or options.synthesizer in kinds)

    when = "--trainer dni (or no-feedback with --grad-scale above 0)"
    if kinds:
        when += f" with --synthesizer {' or '.join(kinds)}"
    return option(default, help, only=only, when=when, **limits)


@dataclass
class Options:
    """Options of ``seqdni run count-digits``."""

    recipe: Literal["count-digits"] = "count-digits"
    trainer: Literal["joint", "dni", "no-feedback", "all"] = option(
        "dni",
        "joint: one graph over T * T digits, one update for both; dni: each network by itself, "
        "with synthetic gradients from B to A (and at chunk ends, see --grad-scale); no-feedback: "
        "the same without those from B to A; all: the three, each in a folder of its own",
    )
    data_dir: str | None = option(
        None, "folder with the four files of MNIST; null: the small digits of scikit-learn"
    )
    chunk_len: int = option(4, "T: digits of a window, and windows of a long one", at_least=2)
    core: Literal["lstm", "gru", "rnn"] = option("lstm", "recurrent core of both")
    hidden: int = option(64, "units of a layer", at_least=1)
    layers: int = same_option(RunOptions, "layers")
    forget_bias: float = same_option(RunOptions, "forget_bias", 0.0)
    encoder: int = option(64, "units that read an image, rectified", at_least=1)
    init_from: str | None = same_option(RunOptions, "init_from")
    batch: int = same_option(RunOptions, "batch", 64)
    lr: float = option(3e-3, "Adam's learning rate for A", above=0)
    lr_b: float | None = option(None, "Adam's learning rate for B; null: that of A", above=0)
    clip: float = option(1.0, "largest norm of a network's gradient", above=0)
    synthesizer: Literal["rls", "mlp", "whitened", "linear"] = for_decoupled(
        "rls",
        "rls: linear, by recursive least squares; mlp: one hidden ReLU layer, by Adam (the "
        "paper's); whitened: one hidden tanh layer on the whitened state; linear: no hidden layer",
    )
    forgetting: float = for_decoupled(
        0.99,
        "factor on the weight of all earlier data at each update of least squares",
        ("rls",),
        above=0,
        at_most=1,
    )
    ridge: float = for_decoupled(
        1e-4, "damping of the solution, relative to each feature's energy", ("rls",), above=0
    )
    solve_every: int | None = for_decoupled(
        None,
        "updates between two solutions of least squares; null: more of them the wider the state",
        ("rls",),
        at_least=1,
    )
    synth_hidden: int | None = for_decoupled(
        None,
        "width of the synthesizer's hidden layer; null: half the core's",
        ("mlp", "whitened"),
        at_least=1,
    )
    synth_lr: float = for_decoupled(1e-3, "Adam's rate for synthesizers", DESCENDED, above=0)
    synth_clip: float = for_decoupled(
        1.0, "largest norm of the synthesizers' gradient", DESCENDED, above=0
    )
    grad_scale: float = option(
        0.0,
        "factor on synthetic gradients at a network's own chunk ends; here each answer depends on "
        "its own window alone, so that there is nothing to carry over them",
        at_least=0,
        only=lambda options: options.trainer != "joint",
        when="a --trainer other than joint",
    )
    message_scale: float = option(
        1.0,
        "factor on synthetic gradients from B to A",
        at_least=0,
        only=lambda options: options.trainer in ("dni", "all"),
        when="--trainer dni",
    )
    condition: bool = option(
        True,
        "whether the synthesizer from B to A also reads, in training, how many 3s each window had; "
        "without it, it predicts from A's message alone, and what it can predict vanishes as B "
        "learns",
        only=lambda options: options.trainer in ("dni", "all"),
        when="--trainer dni",
    )
    control: Literal["shuffled", "batch-mean", "zero"] | None = for_decoupled(
        None,
        "for experiments: rows get each other's synthetic gradients, or the batch's mean, or none",
    )
    bound: float | None = for_decoupled(
        1.0,
        "largest synthetic gradient of a row, as a multiple of the usual target; null: no bound",
        above=0,
    )
    seed: int = same_option(RunOptions, "seed")
    updates: int | None = option(None, "stop after this many updates of A", at_least=1)
    max_tokens: int | None = option(2_000_000, "stop after this many digits, of all rows", above=0)
    max_seconds: float | None = same_option(RunOptions, "max_seconds")
    evaluate_every: int = option(
        2000, "steps between two looks at held-out digits, in steps of --log-every", at_least=1
    )
    device: str = same_option(RunOptions, "device")
    threads: int | None = same_option(RunOptions, "threads")
    log_every: int = option(1000, "steps between two rows of metrics.jsonl", at_least=1)
    checkpoint_seconds: float = same_option(RunOptions, "checkpoint_seconds")
    out: str | None = option(None, "folder of the run; null: runs/count-digits/TIME")


def prepare(options: Options) -> None:
    """Refuse what cannot work, before any data is read; make paths absolute.

    Args:
        options: of the run, changed in place.

    Raises:
        RunError: naming the option.
    """
    check_values(options)
    device_of(options)
    if options.data_dir is not None:
        options.data_dir = str(Path(options.data_dir).expanduser().resolve())
