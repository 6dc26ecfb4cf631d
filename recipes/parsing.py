"""Makes a command-line parser from a dataclass of options, and reads command lines and configs."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser  # pyright: ignore[reportPrivateImportUsage]

from seqdni.recipes.config_file import parse_config
from seqdni.recipes.errors import RunError
from seqdni.recipes.help_groups import in_groups
from seqdni.recipes.option_field import flag

CONFIGS = Path(__file__).parent / "configs"  # shipped; known by their names
# Options that had another name in earlier versions: the old name, and the name now.
RENAMED = {
    "lessons": "train_fraction",
    "synth_steps": "updates_per_chunk",
    "hint": "condition",
}


def recipe_parser(
    recipe: str, summary: str, options_type: type, experts: bool = False
) -> ArgumentParser:
    """The command line of one recipe.

    Args:
        recipe: its name.
        summary: one line.
        options_type: dataclass of options.
        experts: whether its help shows all options; False: only those that most runs need.

    Returns:
        A parser with a flag for each field, ``--config``, ``--print_config`` and ``--resume``.
    """
    parser = ArgumentParser(
        prog=f"seqdni run {recipe}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=None if experts else f"More options: seqdni run {recipe} --help-all",
        allow_abbrev=False,
        exit_on_error=False,
    )
    _add_files(parser)
    parser.add_argument("--help-all", action="help", help="show the options for experts as well")
    hints = get_type_hints(options_type)
    own = {each.name: each for each in fields(options_type)}
    for title, common, rare in in_groups(own):
        group = parser.add_argument_group(title)
        for name in (*common, *rare):
            shown = own[name].metadata and (experts or name in common)
            group.add_argument(
                flag(name),
                type=hints[name],
                default=own[name].default,
                help=own[name].metadata["help"] if shown else argparse.SUPPRESS,
            )
    return parser


def _add_files(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="read options from a YAML file, or from a shipped one by its name (see seqdni ls)",
    )
    parser.add_argument(
        "--resume",
        metavar="DIR",
        type=str,
        default=None,
        help="continue the run in this folder; auto: that in --out, if one has begun there, else "
        "begin it",
    )


def given_flags(words: Sequence[str]) -> set[str]:
    """The options that a command line itself gives, without those of its configs.

    Args:
        words: the command line.

    Returns:
        Names of fields.

    Example:
        >>> sorted(given_flags(["--chunk-len", "4", "--lr=1e-3"]))
        ['chunk_len', 'lr']
    """
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    return {word[2:].replace("-", "_") for word in flags}


def parse(parser: ArgumentParser, words: Sequence[str], defaults: bool = True) -> dict[str, Any]:
    """Parse the words of a command line.

    Args:
        parser: from :func:`recipe_parser`.
        words: the command line.
        defaults: whether to return also the options that the words do not name.

    Returns:
        Options by field name.

    Raises:
        RunError: one line that names the option.
    """
    words = [part for word in words for part in _split_config(word)]
    for i, word in enumerate(words[1:], 1):
        if words[i - 1] == "--config":
            words[i] = str(_config(word, parser))
    try:
        return vars(parser.parse_args(words, defaults=defaults))
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        reason = re.sub(r'Parser key "(\w+)":', lambda found: f"{flag(found[1])}:", reason)
        unknown = [word.split("=")[0] for word in words if word.startswith("--")]
        flags = [name for action in parser._actions for name in action.option_strings]
        unknown = [word for word in unknown if word not in flags]
        hint = did_you_mean(unknown[0], flags) if unknown else ""
        raise RunError(f"{reason}{hint or f'; see: {parser.prog} --help'}") from None


def parse_saved(parser: ArgumentParser, saved: dict[str, Any]) -> dict[str, Any]:
    """Check the options of a run's config.yaml, which may have been edited.

    Args:
        parser: from :func:`recipe_parser`.
        saved: what is in the file; options that it lacks get their defaults.

    Returns:
        Options by field name.

    Raises:
        RunError: a value is of the wrong type.
    """
    try:
        return vars(parser.parse_object(dict(saved)))
    except (ArgumentError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"config.yaml is damaged: {' '.join(str(error).split())}") from None


def _config(word: str, parser: ArgumentParser) -> Path:
    """The path of the config that a word names; its form and the names of its options are good."""
    path, shipped = Path(word), CONFIGS / f"{word}.yaml"
    if not path.is_file() and word in known_configs():
        path = shipped
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"--config {word}: {reason}; give a YAML file, or one of: {', '.join(known_configs())}"
        ) from None
    names = {action.dest for action in parser._actions} - {"config", "help"}
    for name, value in parse_config(content, path).items():
        if name not in names:
            raise RunError(f"{path}: {name!r} is not accepted{did_you_mean(name, names)}")
        if name == "resume" and value is not None:
            raise RunError(f"{path}: resume is not accepted in a config; give --resume {value}")
    return path


def known_configs() -> list[str]:
    """The names of the shipped configs.

    Returns:
        In order, without folder and suffix.
    """
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error about a word that is not known: the word that was probably meant.

    Args:
        word: as it was typed.
        known: the words that would be accepted.

    Returns:
        The end of a sentence; empty where no known word is similar.

    Example:
        >>> did_you_mean("--chunk-lenght", ["--chunk-len", "--lr"])
        '; did you mean --chunk-len?'
        >>> did_you_mean("--lessons", ["--train-fraction", "--lr"])
        '; its name is now --train-fraction'
    """
    known = list(known)
    now = RENAMED.get(word.removeprefix("--").replace("-", "_"), "")
    for name in {now, flag(now)} & set(known):
        return f"; its name is now {name}"
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _split_config(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--config=") else [word]
