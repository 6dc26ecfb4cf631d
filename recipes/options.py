"""The options that every recipe has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.option import LIMITS, check_values, option
from seqdni.recipes.synthesizers import DESCENDED, LEARNING, SYNTHESIZERS
from seqdni.recipes.trainers import SYNTHETIC, TRAINERS, FlatTrainer, only_with_own_trainer, way_of

MOST_THREADS = 1024


def for_dni(
    default: Any, help: str, synthesizers: tuple[str, ...] = SYNTHESIZERS, **limits: Any
) -> Any:
    """An option that only a run with synthetic gradients has, of some kinds of synthesizer.

    Args:
        default: its default.
        help: what ``--help`` says.
        synthesizers: those that it is for.
        limits: as of :func:`option`.

    Returns:
        The field.
    """

    def only(options: RunOptions) -> bool:
        return way_of(options).synthetic and options.synthesizer in synthesizers

    when = f"--trainer {' or '.join(SYNTHETIC)}"
    if synthesizers != SYNTHESIZERS:
        when += f" with --synthesizer {' or '.join(synthesizers)}"
    return option(default, help, only=only, when=when, **limits)


@dataclass
class RunOptions:
    """Options that every recipe has, spelled the same."""

    trainer: FlatTrainer = option(  # noqa: RUF009 - a field, as all others; the type is an alias
        "dni",
        "way of training. "
        + "; ".join(f"{name}: {TRAINERS[name].help}" for name in get_args(FlatTrainer)),
    )
    recompute: bool = option(
        False,
        "recompute activations in the backward pass, chunk by chunk: full BPTT at little more than "
        "the memory of a chunk, for a second forward pass",
        **only_with_own_trainer("recompute"),
    )
    cut_probability: float = option(
        0.5,
        "probability of a cut at a chunk boundary; a graph has 1 / this many chunks on average",
        above=0,
        at_most=1,
        **only_with_own_trainer("cut_probability"),
    )
    history: int = option(
        1,
        "chunks before each chunk that are run again and that its gradient reaches",
        at_least=1,
        **only_with_own_trainer("history"),
    )
    chunk_len: int = option(8, "T: steps of a chunk, the truncation length", at_least=1)
    core: Literal["lstm", "gru", "rnn"] = option("lstm", "kind of recurrent core")
    hidden: int = option(256, "units of each recurrent layer", at_least=1)
    layers: int = option(1, "number of recurrent layers", at_least=1)
    forget_bias: float = option(
        0.0,
        "what is added to the LSTM's forget bias at the start",
        only=lambda options: options.core == "lstm",
        when="--core lstm",
    )
    init_from: str | None = option(
        None,
        "folder of a run or of an export whose weights training starts from (fine-tuning); null: "
        "weights drawn from the seed",
    )
    batch: int = option(32, "B: rows that are trained side by side", at_least=1)
    lr: float = option(1e-3, "learning rate of the model", above=0)
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser of the model")
    weight_decay: float = option(
        0.0,
        "weight decay of the model; decoupled with adamw, else added to the gradient",
        at_least=0,
    )
    momentum: float = option(
        0.0,
        "momentum of --optimizer sgd",
        at_least=0,
        only=lambda options: options.optimizer == "sgd",
        when="--optimizer sgd",
    )
    clip: float = option(1.0, "largest norm of the model's gradient", above=0)
    update_every: Literal["episode"] | int = option(
        1, "chunks whose gradients make one update, or 'episode'", at_least=1
    )
    synthesizer: Literal["rls", "whitened", "mlp", "linear", "none"] | None = for_dni(
        None,
        "what predicts the gradient. rls: linear, by recursive least squares; whitened: one hidden "
        "tanh layer on the whitened state, by Adam; mlp: one hidden ReLU layer on the raw state, "
        "by Adam (the paper's); "
        "linear: the same without the hidden layer; "
        "none: nothing beyond the steps of --look-ahead; null: rls for episodes, none for text, "
        "mlp for dni-aux",
    )
    look_ahead: int = for_dni(
        0,
        "K: steps after a chunk whose gradient is taken by running the model on over them, at "
        "about K / T of a chunk's cost; the synthesizer is asked for what lies beyond",
        at_least=0,
    )
    forgetting: float = for_dni(
        0.97,
        "factor on the weight of all earlier data at each update of least squares",
        ("rls",),
        above=0,
        at_most=1,
    )
    ridge: float = for_dni(
        1e-4, "damping of least squares, relative to each feature's energy", ("rls",), above=0
    )
    solve_every: int | None = for_dni(
        None,
        "chunks between two solutions of least squares; null: more of them the wider the state",
        ("rls",),
        at_least=1,
    )
    synth_hidden: int | None = for_dni(
        None,
        "width of the synthesizer's hidden layer; null: half the core's (the paper: the core's)",
        ("mlp", "whitened"),
        at_least=1,
    )
    synth_lr: float = for_dni(
        1e-3, "learning rate of the synthesizer, which Adam trains", DESCENDED, above=0
    )
    synth_clip: float = for_dni(
        1.0, "largest norm of the synthesizer's gradient", DESCENDED, above=0
    )
    train_fraction: float = for_dni(
        1.0,
        "share of the chunks that the synthesizer learns from; a smaller share takes less time",
        LEARNING,
        above=0,
        at_most=1,
    )
    updates_per_chunk: int = for_dni(
        1,
        "updates of the synthesizer in a chunk, each on its own part of the targets",
        DESCENDED,
        at_least=1,
    )
    targets: Literal["boundary", "dense"] = for_dni(
        "boundary",
        "what the synthesizer learns from: the gradient at the chunk's start, or also at every "
        "state inside the chunk (LSTM and GRU; not with dni-aux)",
        LEARNING,
    )
    grad_scale: float = for_dni(
        1.0, "factor on the synthetic gradient where the model consumes it", LEARNING, at_least=0
    )
    bound: float | None = for_dni(
        1.0,
        "largest synthetic gradient of a row, as a multiple of the usual target; null: no bound",
        LEARNING,
        above=0,
    )
    control: Literal["shuffled", "batch-mean", "zero"] | None = for_dni(
        None,
        "a control for experiments: rows get each other's synthetic gradients, or the batch's "
        "mean, or none; a gain that survives is not credit assignment",
    )
    warmup_chunks: int = for_dni(
        0,
        "chunks during which the synthesizer learns but is not listened to; known steps are",
        LEARNING,
        at_least=0,
    )
    horizon_every: int | None = for_dni(
        None,
        "measure every this many updates, on held-out data, how far credit reaches, and log it: "
        "horizon_cosine (weight gradient against full BPTT's), horizon_steps; null: never",
        at_least=1,
    )
    precision: Literal["float32", "bfloat16"] = option(
        "float32",
        "type of the model's numbers; with bfloat16 the parameters stay float32 (autocast)",
    )
    seed: int = option(
        0, "seed of the initial weights and of the data", at_least=0, at_most=2**63 - 1
    )
    updates: int | None = option(10_000, "stop after this many weight updates", at_least=1)
    max_seconds: float | None = option(None, "stop after this much training time", above=0)
    device: str = option(
        "auto", "where to compute: cpu, cuda, cuda:1 ...; auto takes a GPU if there is one"
    )
    threads: int | None = option(
        None, "number of CPU threads; null leaves it to torch", at_least=1, at_most=MOST_THREADS
    )
    log_every: int = option(50, "updates between two rows of metrics.jsonl", at_least=1)
    checkpoint_seconds: float = option(60.0, "training time between two checkpoints", above=0)
    out: str | None = option(None, "folder of the run; null: runs/RECIPE/TIME")


class Sampling(NamedTuple):
    """What ``seqdni sample`` was asked for.

    Args:
        length: symbols; None takes the recipe's.
        seed: of the choices.
        temperature: below 1 is more careful, above 1 more daring; 0 always takes the likeliest.
        top_k: choose among this many of the likeliest; None among all.
        prompt: text to continue.
    """

    length: int | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    prompt: str = ""


# What may differ when a run is resumed: where it stops and how it is watched, not what it computes.
RESUMABLE = {
    *LIMITS,
    *("patience", "threads", "checkpoint_seconds", "data_dir"),
}


def check(options: Any, synthesizer: str) -> None:
    """Refuse values out of range, and settings that would be silently ignored.

    Args:
        options: a recipe's options; an open choice of the synthesizer is filled in.
        synthesizer: the recipe's choice.

    Raises:
        RunError: naming the option.
    """
    way = way_of(options)
    if options.synthesizer is None and way.synthetic:
        options.synthesizer = "mlp" if way.aux else synthesizer
    check_values(options)
    if options.synthesizer == "none" and not options.look_ahead:
        raise RunError(
            "--synthesizer none without --look-ahead is plain tbptt; use --trainer tbptt"
        )
    if way.aux and options.synthesizer not in ("mlp", "whitened"):
        raise RunError(
            f"--trainer {options.trainer} shapes a hidden layer of the synthesizer, and "
            f"--synthesizer {options.synthesizer} has none; add --synthesizer mlp"
        )
    if options.updates_per_chunk > 1 and way.aux:
        raise RunError("--updates-per-chunk needs --trainer dni")
    if options.targets == "dense" and options.precision != "float32":
        raise RunError("--targets dense computes the core in float32; leave --precision at float32")
    if options.targets == "dense" and options.core == "rnn":
        raise RunError("--targets dense is for --core lstm or gru")
    if options.targets == "dense" and way.aux:
        raise RunError("--targets dense needs --trainer dni")
    device_of(options)
