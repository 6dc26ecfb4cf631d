"""The options of recipe ``count-digits``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seqdni.recipes.apart import DRAWS, apart_option, refuse, staleness_option
from seqdni.recipes.common_options import RunOptions, absolute, check_compiled
from seqdni.recipes.device import device_of
from seqdni.recipes.option_field import check_values, option, same_option
from seqdni.recipes.synthesizers import DESCENDED

WAYS = ("joint", "dni", "no-feedback")


def for_decoupled(default: Any, help: str, kinds: tuple[str, ...] = (), **limits: Any) -> Any:
    """An option that has an effect only with a synthesizer, perhaps of some kinds only."""

    def only(options: Options) -> bool:
        at_chunk_ends = options.trainer == "no-feedback" and options.grad_scale > 0
        decoupled = options.trainer in ("dni", "all") or at_chunk_ends
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
        "way of training. joint: one graph over T * T digits and one update of both networks; dni: "
        "each network by itself, with synthetic gradients from B to A (for those at chunk ends see "
        "--grad-scale); no-feedback: as dni, without gradients from B to A; all: the three one "
        "after another, each in a folder of its own",
    )
    data_dir: str | None = option(
        None, "folder with the four files of MNIST; null: the small digits of scikit-learn"
    )
    chunk_len: int = option(
        4, "T: network A answers after each window of T digits, B after T windows", at_least=2
    )
    core: Literal["lstm", "gru", "rnn"] = option("lstm", "kind of recurrent core of both networks")
    hidden: int = option(64, "number of units of each recurrent layer", at_least=1)
    layers: int = same_option(RunOptions, "layers")
    forget_bias: float = same_option(RunOptions, "forget_bias", 0.0)
    chrono_steps: int = same_option(RunOptions, "chrono_steps")
    encoder: int = option(64, "units of the ReLU layer that reads an image", at_least=1)
    init_from: str | None = same_option(RunOptions, "init_from")
    batch: int = same_option(RunOptions, "batch", 64)
    lr: float = option(3e-3, "Adam's learning rate for A", above=0)
    lr_b: float | None = option(None, "Adam's learning rate for B; null: that of A", above=0)
    clip: float = option(1.0, "largest norm of a network's gradient", above=0)
    synthesizer: Literal["rls", "mlp", "whitened", "linear"] = for_decoupled(
        "rls",
        "the synthesizer, which predicts a gradient. rls: linear, solved by recursive least "
        "squares; mlp: one hidden ReLU layer, trained by Adam (the paper's); whitened: one hidden "
        "tanh layer on the whitened state, by Adam; linear: no hidden layer, by Adam",
    )
    forgetting: float = for_decoupled(
        0.99,
        "factor on the weight of all earlier data at each update of least squares",
        ("rls",),
        above=0,
        at_most=1,
    )
    ridge: float = for_decoupled(
        1e-4,
        "damping of least squares, as a fraction of each feature's sum of squares",
        ("rls",),
        above=0,
    )
    solve_every: int | None = for_decoupled(
        None,
        "updates of least squares from one solution to the next; null: a 32nd of the "
        "number of features, since a solution costs more the wider the state",
        ("rls",),
        at_least=1,
    )
    synth_hidden: int | None = for_decoupled(
        None,
        "units of the synthesizer's hidden layer; null: half as many as --hidden",
        ("mlp", "whitened"),
        at_least=1,
    )
    synth_lr: float = for_decoupled(
        1e-3, "learning rate of Adam for the synthesizers", DESCENDED, above=0
    )
    synth_clip: float = for_decoupled(
        1.0, "largest norm of the synthesizers' gradient", DESCENDED, above=0
    )
    apart: Literal["processes"] | None = apart_option(
        lambda options: options.trainer in ("dni", "no-feedback"), "--trainer dni or no-feedback"
    )
    staleness: int = staleness_option()
    grad_scale: float = option(
        0.0,
        "factor on the synthetic gradients at the ends of a network's own chunks. It is 0, since "
        "an answer depends on its own window alone, and no credit has to cross these ends",
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
        "whether the synthesizer from B to A also reads, in training, how many 3s each window had. "
        "From A's message alone it can predict less and less of the gradient while B learns",
        only=lambda options: options.trainer in ("dni", "all"),
        when="--trainer dni",
    )
    control: Literal["shuffled", "batch-mean", "zero"] | None = for_decoupled(
        None,
        "a control for experiments, which changes the gradients that rows get. shuffled: those of "
        "other rows; batch-mean: the mean of all rows; zero: none",
    )
    bound: float | None = for_decoupled(
        1.0,
        "limit of the root mean square of a row's synthetic gradient, as a multiple of that of the "
        "gradients that the synthesizer learns from; null: no limit",
        above=0,
    )
    compiled: bool = same_option(RunOptions, "compiled")
    seed: int = same_option(RunOptions, "seed")
    updates: int | None = option(None, "stop after this many updates of A", at_least=1)
    max_tokens: int | None = option(
        2_000_000, "stop after this many digits, summed over the rows", above=0
    )
    max_seconds: float | None = same_option(RunOptions, "max_seconds")
    evaluate_every: int = option(
        2000,
        "steps from one evaluation on held-out digits to the next; it takes place with a row of "
        "--log-every",
        at_least=1,
    )
    device: str = same_option(RunOptions, "device")
    threads: int | None = same_option(RunOptions, "threads")
    log_every: int = option(1000, "steps between two rows of metrics.jsonl", at_least=1)
    checkpoint_seconds: float = same_option(RunOptions, "checkpoint_seconds")
    out: str | None = option(None, "folder of the run; null: runs/count-digits/TIME")


def prepare(options: Options) -> None:
    """Refuse what cannot work, before any data is read, and make paths absolute.

    Args:
        options: the options of the run, which this function changes.

    Raises:
        RunError: an option cannot be used; the message names it.
    """
    check_values(options)
    refuse(options.apart is not None and options.control == "shuffled", "--control shuffled", DRAWS)
    device_of(options)
    check_compiled(options)
    if options.data_dir is not None:
        options.data_dir = absolute(options.data_dir)
