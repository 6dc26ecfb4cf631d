"""The command line: ``seqdni ls``, ``run``, ``eval``, ``sample``, ``horizon``, ``plot``."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from corpora import CorpusError
from recipes import copying, count_digits, curves, horizon, lm, long_dependency, plot
from recipes.directory import RunDirectory, new_folder
from recipes.errors import RunError, RunStopped, one_line
from recipes.export import export
from recipes.memory import is_out_of_memory
from recipes.option import LIMITS, MOST, check_kinds, flag
from recipes.options import RESUMABLE, Sampling
from recipes.parsing import CONFIGS, parse, parse_saved, recipe_parser
from recipes.session import Session, table


class Recipe(NamedTuple):
    """A recipe: its line in ``seqdni ls``, its options, and the file with what it does."""

    summary: str
    options: type
    file: Any  # a module with prepare, start, run, evaluate, sample and held_out


RECIPES = {
    "copy": Recipe(copying.SUMMARY, copying.CopyOptions, copying),
    "repeat-copy": Recipe(copying.REPEAT_SUMMARY, copying.RepeatCopyOptions, copying),
    "adding": Recipe(
        long_dependency.ADDING_SUMMARY, long_dependency.AddingOptions, long_dependency
    ),
    "recall": Recipe(
        long_dependency.RECALL_SUMMARY, long_dependency.RecallOptions, long_dependency
    ),
    "mnist": Recipe(long_dependency.MNIST_SUMMARY, long_dependency.MnistOptions, long_dependency),
    "count-digits": Recipe(count_digits.SUMMARY, count_digits.Options, count_digits),
    "lm": Recipe(lm.SUMMARY, lm.Options, lm),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its words; None takes the process's.

    Returns:
        The exit status: 0, 1 where it failed, 130 where the user stopped it.
    """
    options = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may write what a terminal cannot show
    try:
        return options.command(options)
    except (RunError, CorpusError) as error:
        print(f"seqdni: error: {error}", file=sys.stderr)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"seqdni: error: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("seqdni: stopped at once", file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"seqdni: error: not enough memory ({one_line(error)}); make what is asked for "
            "smaller, e.g. --hidden, --batch or --chunk-len",
            file=sys.stderr,
        )
    return 1


def run(recipe_name: str, words: Sequence[str]) -> int:
    """``seqdni run RECIPE ...``: begin or resume a run, train, and write its result.

    Args:
        recipe_name: which recipe.
        words: its options.

    Returns:
        The exit status.
    """
    recipe = RECIPES[recipe_name]
    parser = recipe_parser(recipe_name, recipe.summary, recipe.options)
    parsed = parse(parser, words)
    if parsed["resume"] is None and parsed["trainer"] == "all":
        return _run_each(recipe_name, parsed)
    if parsed["resume"] is None:
        session = _begin(recipe, parsed)
    else:
        session = _resume(recipe_name, parser, words, parsed["resume"])
    path = session.directory.path
    print(f"{recipe_name} in {path}, on {session.trainer.device}", flush=True)
    try:
        result = recipe.file.run(session)
    except (RunStopped, KeyboardInterrupt) as stop:
        saved = "all saved" if isinstance(stop, RunStopped) else "saved up to the last checkpoint"
        print(
            f"stopped after {session.trainer.updates} updates, {saved}; continue with:\n"
            f"  seqdni run {recipe_name} --resume {path}"
        )
        return 130
    finally:
        session.directory.close()
    session.directory.write_json("result.json", result)
    print(table(_short(result)))
    print(f"\nA sample (another: seqdni sample {path} --seed 1):\n")
    recipe.file.sample(session.directory, session.options, Sampling())
    print(f"\nAll of it is in {path}; compute the result again with: seqdni eval {path}")
    return 0


def _run_each(recipe_name: str, parsed: dict[str, Any]) -> int:
    """Every way of training that a recipe compares, each in a folder of its own.

    What is finished there is left alone and what was stopped goes on: the same command continues.
    """
    recipe = RECIPES[recipe_name]
    options = recipe.options(**{each.name: parsed[each.name] for each in fields(recipe.options)})
    recipe.file.prepare(options)
    folder = _folder_of_each(options.out, recipe_name)
    for trainer in recipe.file.WAYS:
        path = folder / trainer
        if path.is_symlink():
            raise RunError(f"{path} is a link; give another --out")
        if (path / "result.json").exists():
            continue
        words = ["--resume", str(path)]
        if not (path / "last.pt").exists():
            words = [*_words_for(options, trainer), "--trainer", trainer, "--out", str(path)]
        if status := run(recipe_name, words):
            print(f"and with the rest by the same command, with --out {folder}")
            return status
    print(f"Draw them with: seqdni plot {folder}/* --metric error_b --against tokens")
    return 0


def _folder_of_each(out: str | None, recipe_name: str) -> Path:
    """The folder of several runs, which may be there from before."""
    ways = RECIPES[recipe_name].file.WAYS
    if out is not None and Path(out).is_dir():
        inside = {path.name for path in Path(out).iterdir()}
        if inside and inside <= set(ways):
            return Path(out)
    return new_folder(out, recipe_name)


def _words_for(options: Any, trainer: str) -> list[str]:
    """The options that were set, as a command line of one way: those with an effect there."""
    own = replace(options, trainer=trainer)
    words = []
    for each in fields(own):
        value, only = getattr(own, each.name), each.metadata.get("only")
        if each.name in ("recipe", "trainer", "out") or value == each.default:
            continue
        if only is None or only(own):
            words += [flag(each.name), yaml.safe_dump(value).split("\n")[0]]
    return words


def _begin(recipe: Recipe, parsed: dict[str, Any]) -> Session:
    """A new run; its folder appears only once its data has been found good."""
    options = recipe.options(**{each.name: parsed[each.name] for each in fields(recipe.options)})
    recipe.file.prepare(options)
    _use_threads(options)
    session = recipe.file.start(options, RunDirectory("."))
    session.directory = RunDirectory.create(options)
    return session


def _resume(recipe_name: str, parser: Any, words: Sequence[str], path: str) -> Session:
    """An existing run at its last checkpoint, with the few options that may change changed."""
    recipe = RECIPES[recipe_name]
    directory, saved = RunDirectory.open(path, recipe_name)
    options = _options(recipe, saved)
    changed = False
    can_change = {each.name for each in fields(options)} & RESUMABLE
    for name, value in parse(parser, words, defaults=False).items():
        if name == "resume" or name.startswith("__"):
            continue
        if name not in can_change:
            raise RunError(
                f"{flag(name)} cannot change when a run is resumed; "
                f"these can: {', '.join(sorted(map(flag, can_change)))}"
            )
        changed |= getattr(options, name) != value and name in LIMITS
        setattr(options, name, value)
    if changed and getattr(options, "schedule", "constant") == "cosine":
        raise RunError(
            "a cosine ends where the run was to end, so its limits cannot change when it is "
            "resumed; begin a new run, or use --schedule constant or plateau there"
        )
    recipe.file.prepare(options)
    _use_threads(options)
    directory.lock()
    try:
        session = recipe.file.start(options, directory)
        session.restore()
        recipe.file.resumed(session)
        directory.forget_metrics_after(session.trainer.tokens)
        directory.write_options(options)
    except BaseException:
        directory.close()
        raise
    return session


def _use_threads(options: Any) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)


def _options(recipe: Recipe, saved: dict[str, Any]) -> Any:
    names = {each.name for each in fields(recipe.options)}
    if unknown := sorted(set(saved) - names):
        raise RunError(f"config.yaml has options that this version does not know: {unknown}")
    parser = recipe_parser(saved["recipe"], recipe.summary, recipe.options)
    checked = parse_saved(parser, saved)
    options = recipe.options(**{name: checked[name] for name in names})
    check_kinds(options)
    return options


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """What the table at the end shows: no long lists."""
    return {k: v for k, v in result.items() if not (isinstance(v, list) and v)}


def _ls(_options: argparse.Namespace) -> int:
    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        print(f"{name:<{width}}  {recipe.summary}")
    print("\nConfigs that come with it, for seqdni run RECIPE --config NAME:")
    for path in sorted(CONFIGS.glob("*.yaml")):
        what, measured = path.read_text().splitlines()[:2]
        print(f"{path.stem}\n  {what.removeprefix('# ')}\n  {measured.removeprefix('# ')}")
    return 0


def _run(options: argparse.Namespace) -> int:
    return run(options.recipe, options.options)


def _eval(given: argparse.Namespace) -> int:
    directory, recipe, options = _existing(given)
    asked = {name: getattr(given, name) for name in ("text", "split") if getattr(given, name)}
    if asked and recipe.file is not lm:
        words = f"{given.dir} is a run of {options.recipe}"
        raise RunError(f"--text and --split are for runs of lm; {words}")
    print(table(_short(recipe.file.evaluate(directory, options, **asked))))
    return 0


def _sample(given: argparse.Namespace) -> int:
    directory, recipe, options = _existing(given)
    if given.length is not None and given.length < 1:
        raise RunError(f"--length is {given.length}, expected at least 1")
    if not 0 <= given.seed <= MOST:
        raise RunError(f"--seed is {given.seed}, expected 0 to {MOST}")
    if not 0 <= given.temperature < math.inf:
        raise RunError(f"--temperature is {given.temperature}, expected a number of at least 0")
    if given.top_k is not None and given.top_k < 1:
        raise RunError(f"--top-k is {given.top_k}, expected at least 1")
    asked = Sampling(given.length, given.seed, given.temperature, given.top_k, given.prompt)
    recipe.file.sample(directory, options, asked)
    return 0


def _horizon(given: argparse.Namespace) -> int:
    directory, recipe, options = _existing(given)
    if given.length is not None and given.length < 1:
        raise RunError(f"--length is {given.length}, expected at least 1")
    found = horizon.measure(
        directory, options, recipe.file.held_out(directory, options, given.length)
    )
    print(horizon.report(directory, found))
    return 0


def _export(given: argparse.Namespace) -> int:
    directory, recipe, options = _existing(given)
    model, files = recipe.file.exported(directory, options)
    out = directory.path / "export" if given.out is None else Path(given.out)
    if given.out is None and out.is_symlink():
        raise RunError(f"{out} is a link; give a folder to write to with --out")
    for path in export(model, files, directory.path / "config.yaml", out):
        print(path)
    return 0


def _plot(given: argparse.Namespace) -> int:
    runs = {}
    for path in given.dirs:
        directory, _, options = _saved(path)
        runs[directory.path.resolve()] = curves.read(directory.path, options)
    print(plot.plot(list(runs.values()), given.metric, given.against, given.out))
    return 0


def _existing(given: argparse.Namespace) -> tuple[RunDirectory, Recipe, Any]:
    directory, recipe, options = _saved(given.dir)
    options.device = given.device
    if getattr(given, "data_dir", None):
        if not hasattr(options, "data_dir"):
            raise RunError(f"--data-dir has no effect: {given.dir} is a run of {options.recipe}")
        options.data_dir = given.data_dir
    recipe.file.prepare(options)
    return directory, recipe, options


def _saved(path: str) -> tuple[RunDirectory, Recipe, Any]:
    directory, saved = RunDirectory.open(path)
    if saved["recipe"] not in RECIPES:
        raise RunError(f"{path} is a run of {saved['recipe']!r}, which is no recipe here")
    recipe = RECIPES[saved["recipe"]]
    return directory, recipe, _options(recipe, saved)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqdni",
        description="Train RNNs by truncated BPTT with synthetic gradients at chunk boundaries.",
        epilog="Try: seqdni run lm --updates 300, then seqdni sample on the folder it names.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    ls = commands.add_parser("ls", help="list the recipes")
    ls.set_defaults(command=_ls)

    run_ = commands.add_parser(
        "run",
        help="run a recipe, or resume a run",
        description="Run a recipe. Its options: seqdni run RECIPE --help",
    )
    run_.add_argument("recipe", metavar="RECIPE", choices=list(RECIPES), help=", ".join(RECIPES))
    run_.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="the recipe's")
    run_.set_defaults(command=_run)

    eval_ = commands.add_parser("eval", help="recompute a run's result from its checkpoint")
    eval_.add_argument("dir", metavar="DIR", help="folder of the run")
    eval_.add_argument("--text", metavar="FILE", help="lm: score this text instead")
    eval_.add_argument(
        "--split", choices=["train", "valid", "test"], help="lm: score this split only"
    )
    eval_.add_argument("--data-dir", metavar="DIR", help="mnist, lm on ptb: where the data is now")
    eval_.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    eval_.set_defaults(command=_eval)

    export_ = commands.add_parser(
        "export", help="write a run's weights as safetensors, with its config and vocabulary"
    )
    export_.add_argument("dir", metavar="DIR", help="folder of the run")
    export_.add_argument("--data-dir", metavar="DIR", help="mnist: where the data is now")
    export_.add_argument("--out", metavar="DIR", help="folder to write (default: DIR/export)")
    export_.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    export_.set_defaults(command=_export)

    horizon_ = commands.add_parser(
        "horizon", help="compare a run's synthetic gradients with the true ones"
    )
    horizon_.add_argument("dir", metavar="DIR", help="folder of the run")
    horizon_.add_argument(
        "--length", type=int, help="of the episode, or chunks of text (default: the recipe's)"
    )
    horizon_.add_argument("--data-dir", metavar="DIR", help="mnist, lm: where the data is now")
    horizon_.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    horizon_.set_defaults(command=_horizon)

    plot_ = commands.add_parser(
        "plot",
        help="draw learning curves of several runs",
        description="Learning curves from the runs' metrics. Runs that differ in their seed alone "
        "become one line, their mean, in a band from the least to the greatest.",
    )
    plot_.add_argument("dirs", metavar="DIR", nargs="+", help="folders of runs")
    plot_.add_argument("--metric", help="a name in metrics.jsonl (default: what all the runs have)")
    plot_.add_argument(
        "--against", choices=list(plot.AXES), default="updates", help="default: updates"
    )
    plot_.add_argument(
        "--out", metavar="FILE", help=".png or .svg (default: METRIC-by-AGAINST.png, here)"
    )
    plot_.set_defaults(command=_plot)

    sample = commands.add_parser("sample", help="print what a trained model generates")
    sample.add_argument("dir", metavar="DIR", help="folder of the run")
    sample.add_argument("--length", type=int, help="symbols (default: the recipe's)")
    sample.add_argument("--data-dir", metavar="DIR", help="mnist: where the data is now")
    sample.add_argument("--seed", type=int, default=0, help="of the choices (default: 0)")
    sample.add_argument("--temperature", type=float, default=1.0, help="lm (default: 1)")
    sample.add_argument("--top-k", type=int, help="lm: among the k likeliest (default: all)")
    sample.add_argument("--prompt", default="", help="lm: text to continue")
    sample.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    sample.set_defaults(command=_sample)
    return parser


if __name__ == "__main__":
    sys.exit(main())
