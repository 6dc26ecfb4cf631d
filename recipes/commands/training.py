"""A run of a recipe: begins it or continues it, trains to its end, and writes its result."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser  # pyright: ignore[reportPrivateImportUsage]

import seqdni
from seqdni.recipes.common_options import RESUMABLE, Sampling, absolute
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError, RunStopped
from seqdni.recipes.fine_tune import start_from
from seqdni.recipes.launched import rank
from seqdni.recipes.option_field import LIMITS, check_effect, flag
from seqdni.recipes.parsing import given_flags, parse
from seqdni.recipes.processes import as_first_sees, joined, own_rows
from seqdni.recipes.recipe import Recipe
from seqdni.recipes.registry import RECIPES
from seqdni.recipes.saved_run import saved_options
from seqdni.recipes.session import Session, table

AUTO = "auto"


def train(
    recipe_name: str, parser: ArgumentParser, words: Sequence[str], parsed: dict[str, Any]
) -> int:
    """Begin a run or continue one, train to its end, and write its result.

    Args:
        recipe_name: of the recipe.
        parser: of its options.
        words: the options on the command line.
        parsed: the same with the defaults.

    Returns:
        The exit status.

    Raises:
        RunError: an option is refused, or the run cannot be continued.
    """
    recipe = RECIPES[recipe_name]
    with joined(parsed.get("device") or "auto"):
        if parsed["resume"] == AUTO:
            parsed["resume"], words = _begun(recipe, parsed, parse(parser, words, defaults=False))
        if parsed["resume"] is None:
            session = _begin(recipe, parsed, given_flags(words))
        else:
            session = _resume(recipe_name, parser, words, parsed["resume"])
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


def prepared(recipe: Recipe, parsed: dict[str, Any]) -> Any:
    """The options of a new run, checked, with paths that hold wherever it is resumed.

    Args:
        recipe: of the run.
        parsed: options by name.

    Raises:
        RunError: an option is refused.
    """
    options = recipe.options(**{each.name: parsed[each.name] for each in fields(recipe.options)})
    recipe.file.prepare(options)
    if options.init_from is not None:
        options.init_from = absolute(options.init_from)
    return options


def _begin(recipe: Recipe, parsed: dict[str, Any], given: set[str]) -> Session:
    """Begin a new run; its folder is made after its data has been read without an error."""
    options = prepared(recipe, parsed)
    check_effect(options, given)
    _use_threads(options)
    print(f"{options.recipe}: preparing data and model", flush=True)
    session = recipe.file.start(options, RunDirectory("."))
    _check_same_run(session)
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
    asked = prepared(recipe, parsed)
    for name in given.keys() - {"resume", "out"}:
        if (value := getattr(asked, name, None)) != getattr(saved, name, None):
            raise RunError(
                f"--resume auto: {out} has {flag(name)} {getattr(saved, name)}, and this command "
                f"has {value}; give the same options, or another --out"
            )
    return str(out), []


def _resume(recipe_name: str, parser: ArgumentParser, words: Sequence[str], path: str) -> Session:
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
        _check_same_run(session)
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
    if getattr(options, "staleness", 0) and options.apart is None:
        raise RunError(
            f"this run has --staleness {options.staleness}, which parts that train one after "
            "another do not have; leave --apart as it was"
        )
    if changed and getattr(options, "schedule", "constant") in ("cosine", "steps"):
        raise RunError(
            f"--schedule {options.schedule} depends on when a run ends, so its limits cannot "
            "change when it is resumed; begin a new run, or use another --schedule there"
        )


def _check_same_run(session: Session) -> None:
    """Refuse what several processes cannot train together; let each draw numbers of its own."""
    options, processes = session.options, session.processes
    if processes is None:
        return
    if session.parallel is None and not session.apart:
        raise RunError(
            f"several processes cannot train this kind of run of {options.recipe}; "
            "start it without torchrun"
        )
    if session.parallel is not None:
        own_rows(options.batch)
    what = repr([seqdni.__version__, {**asdict(options), "out": None}, session.progress])
    try:
        processes.check_same("options, data or versions", zlib.crc32(what.encode()))
    except ValueError:
        raise RunError(
            "the processes have different options, data or versions of seqdni; start all of them "
            "with the same command"
        ) from None
    if session.parallel is not None and rank():  # the first draws what one process would draw
        torch.manual_seed(options.seed + rank())


def _use_threads(options: Any) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
