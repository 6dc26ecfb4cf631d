"""``seqdni run``: begins a run or continues one, and writes its result."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

import seqdni
from seqdni.recipes.common_options import RESUMABLE, Sampling, absolute
from seqdni.recipes.directory import RunDirectory, new_folder
from seqdni.recipes.errors import RunError, RunStopped
from seqdni.recipes.fine_tune import start_from
from seqdni.recipes.option_field import LIMITS, check_effect, flag
from seqdni.recipes.parsing import did_you_mean, given_flags, parse, recipe_parser
from seqdni.recipes.processes import as_first_sees, joined, rank
from seqdni.recipes.recipe import Recipe
from seqdni.recipes.registry import RECIPES, saved_options
from seqdni.recipes.session import Session, table

AUTO = "auto"


def run(words: Sequence[str]) -> int:
    """``seqdni run RECIPE ...`` or ``seqdni run --resume DIR ...``.

    Args:
        words: the recipe, if it is named, and its options.

    Returns:
        The exit status.

    Raises:
        RunError: there is no such recipe, or an option is refused.
    """
    name, words = _recipe_of(words)
    recipe = RECIPES[name]
    parser = recipe_parser(name, recipe.summary, recipe.options, experts="--help-all" in words)
    parsed = parse(parser, words)
    if parsed["resume"] in (None, AUTO) and parsed["trainer"] == "all":
        return _run_each(name, parsed)
    with joined(parsed.get("device") or "auto"):
        if parsed["resume"] == AUTO:
            parsed["resume"], words = _begun(recipe, parsed, parse(parser, words, defaults=False))
        if parsed["resume"] is None:
            session = _begin(recipe, parsed, given_flags(words))
        else:
            session = _resume(name, parser, words, parsed["resume"])
        try:
            return _finish(recipe, session)
        finally:
            session.directory.close()


def _finish(recipe: Recipe, session: Session) -> int:
    path, options = session.directory.path, session.options
    if (reached := session.limits_reached()) and (path / "result.json").is_file():
        print(
            f"{path} is finished: it has reached {' and '.join(reached)}. To train on, raise that, "
            f"e.g.:\n  seqdni run --resume {path} {session.further()}"
        )
        return 0
    print(f"{options.recipe} in {path}, on {session.trainer.device}", flush=True)
    session.directory.write_options(options)
    try:
        result = recipe.file.run(session)
    except (RunStopped, KeyboardInterrupt) as stop:
        saved = "all saved" if isinstance(stop, RunStopped) else "saved up to the last checkpoint"
        print(
            f"stopped after {session.trainer.updates} updates, {saved}; continue with:\n"
            f"  seqdni run {options.recipe} --resume {path}"
        )
        return 130
    session.directory.write_json("result.json", result)
    print(table(short(result)))
    print(f"\nA sample (another: seqdni sample {path} --seed 1):\n")
    recipe.file.sample(session.directory, session.options, Sampling())
    print(f"\nAll of it is in {path}; compute the result again with: seqdni eval {path}")
    return 0


def short(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that is shown as a table.

    Args:
        result: of a run.

    Returns:
        The same without lists.
    """
    return {k: v for k, v in result.items() if not (isinstance(v, list) and v)}


def _recipe_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe that the words name, or that of the run to resume, and the other words."""
    if words and not words[0].startswith("-"):
        if words[0] not in RECIPES:
            hint = did_you_mean(words[0], RECIPES)
            raise RunError(f"no recipe {words[0]!r}{hint}; there are: {', '.join(RECIPES)}")
        return words[0], list(words[1:])
    for i, word in enumerate(words):
        path = word.removeprefix("--resume=") if word.startswith("--resume=") else None
        if word == "--resume" and i + 1 < len(words):
            path = words[i + 1]
        if path is not None:
            name = RunDirectory.open(path)[1]["recipe"]
            if name not in RECIPES:
                raise RunError(f"{path} is a run of {name!r}, which is no recipe here")
            return name, list(words)
    raise RunError(f"which recipe? Give one of {', '.join(RECIPES)}; or --resume DIR")


def _prepared(recipe: Recipe, parsed: dict[str, Any]) -> Any:
    """The options of a new run, checked, with paths that hold wherever it is resumed."""
    options = recipe.options(**{each.name: parsed[each.name] for each in fields(recipe.options)})
    recipe.file.prepare(options)
    if options.init_from is not None:
        options.init_from = absolute(options.init_from)
    return options


def _run_each(recipe_name: str, parsed: dict[str, Any]) -> int:
    """Run every way of training that a recipe compares, each in a folder of its own.

    The same command continues them later: finished runs are left alone, stopped ones are resumed.
    """
    recipe = RECIPES[recipe_name]
    options = _prepared(recipe, parsed)
    folder = _folder_of_each(options.out, recipe_name)
    for trainer in recipe.compared:
        path = folder / trainer
        if path.is_symlink():
            raise RunError(f"{path} is a link; give another --out")
        if (path / "result.json").exists():
            continue
        words = ["--resume", str(path)]
        if not (path / "last.pt").exists():
            words = [*_words_for(options, trainer), "--trainer", trainer, "--out", str(path)]
        if status := run([recipe_name, *words]):
            print(f"and with the other runs by the same command with --out {folder}")
            return status
    print(f"Draw them with: seqdni plot {folder}/* --metric {recipe.drawn} --against tokens")
    return 0


def _folder_of_each(out: str | None, recipe_name: str) -> Path:
    """The folder of several runs, which may exist already."""
    ways = RECIPES[recipe_name].compared
    if out is not None and Path(out).is_dir():
        inside = {path.name for path in Path(out).iterdir()}
        if inside and inside <= set(ways):
            return Path(out)
    return new_folder(out, recipe_name)


def _words_for(options: Any, trainer: str) -> list[str]:
    """A command line of one way of training: the options that were set and have an effect there."""
    own = replace(options, trainer=trainer)
    words = []
    for each in fields(own):
        value, only = getattr(own, each.name), each.metadata.get("only")
        if each.name in ("recipe", "trainer", "out") or value == each.default:
            continue
        if only is None or only(own):
            words += [flag(each.name), yaml.safe_dump(value).split("\n")[0]]
    return words


def _begin(recipe: Recipe, parsed: dict[str, Any], given: set[str]) -> Session:
    """Begin a new run; its folder is made after its data has been read without an error."""
    options = _prepared(recipe, parsed)
    check_effect(options, given)
    _use_threads(options)
    print(f"{options.recipe}: preparing data and model", flush=True)
    session = recipe.file.start(options, RunDirectory("."))
    _check_processes(session)
    if options.init_from is not None:
        start_from(session, options.init_from)
    session.directory = RunDirectory.create(options)
    return session


def _begun(
    recipe: Recipe, parsed: dict[str, Any], given: dict[str, Any]
) -> tuple[str | None, list[str]]:
    """For ``--resume auto``: the folder of ``--out`` if the run has begun there, and no options.

    The same command then begins a run and continues it, as a scheduler or torchrun repeats it.
    """
    out = parsed["out"]
    if out is None:
        raise RunError("--resume auto needs --out DIR: the folder to begin in or to continue")
    if not as_first_sees((Path(out) / "config.yaml").is_file()):
        return None, []
    saved = saved_options(recipe, RunDirectory.open(out, parsed["recipe"])[1])
    asked = _prepared(recipe, parsed)
    for name in given.keys() - {"resume", "out"}:
        if (value := getattr(asked, name, None)) != getattr(saved, name, None):
            raise RunError(
                f"--resume auto: {out} has {flag(name)} {getattr(saved, name)}, and this command "
                f"has {value}; give the same options, or another --out"
            )
    return str(out), []


def _resume(recipe_name: str, parser: Any, words: Sequence[str], path: str) -> Session:
    """Open an existing run at its last checkpoint, and change the few options that may change."""
    recipe = RECIPES[recipe_name]
    directory, saved = RunDirectory.open(path, recipe_name)
    options = saved_options(recipe, saved)
    _change(options, parse(parser, words, defaults=False))
    recipe.file.prepare(options)
    _use_threads(options)
    directory.lock()
    try:
        session = recipe.file.start(options, directory)
        _check_processes(session)
        if as_first_sees(directory.has_checkpoint()):
            session.restore()
        elif options.init_from is not None:
            start_from(session, options.init_from)
        recipe.file.resumed(session)
        directory.forget_metrics_after(session.trainer.tokens)
    except BaseException:
        directory.close()
        raise
    return session


def _change(options: Any, given: dict[str, Any]) -> None:
    """Put the options of the command line into those of a run that is resumed."""
    changed = False
    can_change = {each.name for each in fields(options)} & RESUMABLE
    for name, value in given.items():
        if name == "resume" or name.startswith("__"):
            continue
        if name not in can_change:
            raise RunError(
                f"{flag(name)} cannot change when a run is resumed; "
                f"these can: {', '.join(sorted(map(flag, can_change)))}"
            )
        changed |= getattr(options, name) != value and name in LIMITS
        setattr(options, name, value)
    if changed and getattr(options, "schedule", "constant") in ("cosine", "steps"):
        raise RunError(
            f"--schedule {options.schedule} depends on when a run ends, so its limits cannot "
            "change when it is resumed; begin a new run, or use another --schedule there"
        )


def _check_processes(session: Session) -> None:
    """Refuse what several processes cannot train together; let each draw numbers of its own."""
    options, processes = session.options, session.processes
    if processes is None:
        return
    if session.parallel is None and not session.apart:
        raise RunError(
            f"several processes cannot train this kind of run of {options.recipe}; "
            "start it without torchrun"
        )
    if session.parallel is not None and options.batch % processes.size:
        raise RunError(
            f"--batch {options.batch} cannot be dealt equally to {processes.size} processes; "
            f"use a --batch that {processes.size} divides"
        )
    what = repr([seqdni.__version__, {**asdict(options), "out": None}, session.progress])
    try:
        processes.check_same("options, data or versions", zlib.crc32(what.encode()))
    except ValueError:
        raise RunError(
            "the processes have different options, data or versions of seqdni; start all of them "
            "with the same command"
        ) from None
    if session.parallel is not None:
        torch.manual_seed(options.seed + rank())


def _use_threads(options: Any) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
