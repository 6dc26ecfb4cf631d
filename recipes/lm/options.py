"""The options of recipe ``lm``, and which of them do not go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seqdni.corpora import own_splits
from seqdni.recipes.apart import DRAWS, apart_option, refuse, staleness_option
from seqdni.recipes.common_options import RunOptions, absolute, check
from seqdni.recipes.errors import RunError
from seqdni.recipes.option_field import option, same_option
from seqdni.recipes.trainers import FlatTrainer, way_of

DOWNLOADED = ("ptb", "wikitext-2", "wikitext-103", "enwik8", "text8")
NAMED = ("pydoc", *DOWNLOADED)
UPDATES = 8000  # where no other limit is given


def _own(options: Options) -> bool:
    return options.corpus not in NAMED


def _split_by_us(options: Options) -> bool:
    return _own(options) and not own_splits(options.corpus)


def _for_levels(default: Any, help: str, **limits: Any) -> Any:
    return option(
        default, help, only=lambda options: options.hierarchy > 1, when="--hierarchy 2", **limits
    )


def _for_one_level(name: str) -> Any:
    """An option of ``RunOptions`` that has no effect with several levels."""
    return same_option(
        RunOptions, name, only=lambda options: options.hierarchy == 1, when="--hierarchy 1"
    )


@dataclass
class Options(RunOptions):
    """Options of ``seqdni run lm``."""

    recipe: Literal["lm"] = "lm"
    trainer: Literal[FlatTrainer, "joint"] = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        "dni",
        "way of training. bptt needs episodes, which a text has not; the others are as in the "
        "other recipes. With --hierarchy 2 or more: tbptt: each level by itself; dni: also with "
        "gradients across chunk ends and from the level above; joint: one graph over a chunk of "
        "the slowest level",
    )
    hierarchy: int = option(
        1,
        "number of levels: the lowest is a core that reads every token. Each further one is a core "
        "that makes one step (tick) in --period ticks of the level below, which gets its features "
        "as an input",
        at_least=1,
        at_most=8,
    )
    period: int = _for_levels(8, "ticks of a level per tick of the level above", at_least=1)
    slow_hidden: int | None = _for_levels(
        None, "units of each core above the lowest; null: an eighth of --hidden", at_least=1
    )
    slow_chunk_len: int = _for_levels(
        8, "ticks in a chunk of each level above the lowest", at_least=1
    )
    apart: Literal["processes"] | None = apart_option(
        lambda options: options.hierarchy > 1 and options.trainer != "joint",
        "--hierarchy 2 and a --trainer other than joint",
    )
    staleness: int = staleness_option()
    corpus: str = option(
        "pydoc",
        "text to train on: pydoc (comes with Python); ptb, wikitext-2, wikitext-103, enwik8 or "
        "text8 (from --data-dir, else downloaded); or the path of your own text file or folder of "
        ".txt files",
    )
    tokens: Literal["char", "word", "subword"] = option(
        "char", "what a token is: a character, a word or line end, a piece of a word"
    )
    max_words: int | None = option(
        None,
        "size of the vocabulary: so many of the most frequent words, and <unk> for the others; "
        "null: all words",
        at_least=2,
        only=lambda options: options.tokens == "word",
        when="--tokens word",
    )
    subword_size: int = option(
        4000,
        "number of pieces in the vocabulary of --tokens subword",
        at_least=260,
        at_most=65536,
        only=lambda options: options.tokens == "subword",
        when="--tokens subword",
    )
    data_dir: str | None = option(
        None,
        "folder with the files of the corpus, e.g. ptb.train.txt; null: they are downloaded once",
        only=lambda options: options.corpus in DOWNLOADED,
        when=f"--corpus {', '.join(DOWNLOADED)}",
    )
    valid_fraction: float = option(
        0.05,
        "share of your own text that is kept for validation",
        at_least=0,
        only=_split_by_us,
        when="your own text as --corpus, without a train.txt of its own",
    )
    test_fraction: float = option(
        0.05,
        "share of your own text that is kept for the test",
        at_least=0,
        only=_split_by_us,
        when="your own text as --corpus, without a train.txt of its own",
    )
    embedding: int | None = option(
        None,
        "width of the token embedding; 0: one-hot; null: one-hot for up to 512 kinds of tokens, "
        "else as wide as the core",
        at_least=0,
    )
    tie: bool = option(False, "whether the readout has the same weights as the embedding")
    dropout: float = option(
        0.0,
        "rate of the dropout after the embedding, between layers and before the readout, with one "
        "mask for each row and chunk",
        at_least=0,
        at_most=0.99,
    )
    cutoffs: tuple[int, ...] | None = option(
        None,
        "adaptive softmax, for large vocabularies of words: ids, in order of frequency, at which "
        "groups of rarer words begin, e.g. [20000,60000]; null: plain softmax",
        only=lambda options: options.tokens == "word",
        when="--tokens word",
    )
    max_tokens: int | None = option(None, "stop after this many training tokens", at_least=1)
    epochs: float | None = option(None, "stop after this many passes over the text", above=0)
    evaluations: int = option(
        10, "number of validations in the run; at most one each --log-every", at_least=1
    )
    patience: int | None = option(
        None,
        "stop after this many validations in a row without a new best; null: do not stop so",
        at_least=1,
    )
    schedule: Literal["constant", "cosine", "plateau"] = option(
        "constant",
        "how the learning rate changes. constant: it does not; cosine: down to 0 along half a "
        "cosine; plateau: times --decay after each validation without a new best",
    )
    decay: float = option(
        0.5,
        "factor with which --schedule plateau lowers the learning rate",
        above=0,
        at_most=1,
        only=lambda options: options.schedule == "plateau",
        when="--schedule plateau",
    )
    warmup_updates: int = option(
        0, "number of first updates in which the learning rate rises linearly from 0", at_least=0
    )
    horizon_every: int | None = _for_one_level("horizon_every")
    capture: bool = _for_one_level("capture")
    look_ahead: int = same_option(RunOptions, "look_ahead", 4)
    # On an endless stream with factor 1 the targets, which contain predictions, grow without end.
    grad_scale: float | None = same_option(RunOptions, "grad_scale", 0.1)
    lr: float = same_option(RunOptions, "lr", 4e-3)
    updates: int | None = option(
        None,
        f"stop after this many weight updates; null: {UPDATES}, or no limit if another is given",
        at_least=1,
    )


def prepare(options: Options) -> None:
    """Refuse what cannot work, before any data is read, and make paths absolute.

    Args:
        options: the options of the run, which this function changes.

    Raises:
        RunError: an option cannot be used; the message names it.
    """
    limits = (options.updates, options.max_tokens, options.epochs, options.max_seconds)
    if limits == (None,) * 4:
        options.updates = UPDATES
    check(options, synthesizer="none")
    if options.audit_every:
        raise RunError("--audit-every needs episodes, and a text has none; leave it out")
    if way_of(options).whole_episodes:
        raise RunError(
            "--trainer bptt unrolls whole episodes, and a text has no end of episode; "
            "use --trainer tbptt with a longer --chunk-len"
        )
    if options.trainer == "joint" and options.hierarchy == 1:
        raise RunError("--trainer joint is for several levels; add --hierarchy 2")
    if options.hierarchy > 1:
        _check_levels(options)
    if options.apart is not None:
        _check_apart(options)
    if options.update_every == "episode":
        raise RunError("--update-every episode: a text has no episodes; give a number of chunks")
    if options.tie and options.embedding not in (None, options.hidden):
        raise RunError(
            f"--tie needs an embedding as wide as the core: --embedding is {options.embedding}, "
            f"--hidden {options.hidden}; leave --embedding out"
        )
    if options.tie and options.cutoffs:
        raise RunError("--tie does not go with --cutoffs: there the readout is in groups")
    if options.corpus == "enwik8" and options.tokens != "char":
        raise RunError(
            f"--tokens {options.tokens}: symbols of enwik8 are its bytes; use --tokens char"
        )
    if options.targets == "dense" and options.dropout and options.layers > 1:
        raise RunError("--targets dense does not go with dropout between layers; use --layers 1")
    if _own(options) and not options.valid_fraction + options.test_fraction < 1:
        raise RunError(
            "--valid-fraction and --test-fraction leave nothing to train on: their sum is "
            f"{options.valid_fraction + options.test_fraction:g}, expected less than 1"
        )
    if options.data_dir is not None:
        options.data_dir = absolute(options.data_dir)
    if _own(options):
        options.corpus = absolute(options.corpus)


def window(options: Any) -> int:
    """Steps of the text in a chunk of the slowest level.

    Args:
        options: of the run.

    Returns:
        A number of steps.
    """
    return options.period ** (options.hierarchy - 1) * options.slow_chunk_len


def _check_apart(options: Options) -> None:
    refuse(options.control == "shuffled", "--control shuffled", DRAWS)
    refuse(options.dropout > 0, "--dropout", DRAWS)
    all_at_once = "it runs all levels over the known steps; give --look-ahead 0 and a --synthesizer"
    refuse(options.trainer == "dni" and options.look_ahead > 0, "--look-ahead", all_at_once)
    changes = "the rates would change while the levels are at different steps"
    refuse(options.schedule == "cosine", "--schedule cosine", changes)
    refuse(options.warmup_updates > 0, "--warmup-updates", changes)
    refuse(options.update_every != 1, "--update-every", "each chunk must be an update")


def _check_levels(options: Options) -> None:
    if way_of(options).mode is None:
        raise RunError(
            f"--trainer {options.trainer} is for one level; with --hierarchy: dni, tbptt or joint"
        )
    chunk_len, period = options.chunk_len, options.period
    if options.trainer == "dni" and options.look_ahead and period % chunk_len:
        raise RunError(
            "--look-ahead gives a gradient only to a message that is sent at the end of a chunk, "
            f"and --period {period} is no multiple of --chunk-len {chunk_len}; make it one, or use "
            "--look-ahead 0 with a --synthesizer"
        )
    if options.trainer == "dni" and options.hierarchy > 2 and options.synthesizer == "none":
        raise RunError(
            f"--hierarchy {options.hierarchy}: --look-ahead gives gradients to the messages of the "
            "lowest level alone; add --synthesizer rls for the levels above it"
        )
    if options.trainer == "joint" and options.slow_chunk_len == 1:
        raise RunError(
            "--slow-chunk-len 1 with --trainer joint: the slowest level's only context is used "
            "after its chunk, and it would learn nothing; give at least 2"
        )
    if options.trainer == "joint" and window(options) % chunk_len:
        raise RunError(
            f"--trainer joint makes one graph of {window(options)} steps, no multiple of "
            f"--chunk-len {chunk_len}; make it one"
        )
