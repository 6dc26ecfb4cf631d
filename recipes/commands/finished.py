"""The commands that read finished runs: ``eval``, ``sample``, ``horizon``, ``export``, ``plot``.

Each takes the words of its command line, parsed, prints what it found and returns the exit status.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from seqdni.recipes.commands.curves import read as read_curves
from seqdni.recipes.commands.export import WEIGHTS
from seqdni.recipes.commands.export import export as write_export
from seqdni.recipes.commands.horizon import report
from seqdni.recipes.commands.plot import plot as draw
from seqdni.recipes.commands.training import short
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.held_out import measure
from seqdni.recipes.option_field import MOST
from seqdni.recipes.recipe import Recipe
from seqdni.recipes.saved_run import saved_run
from seqdni.recipes.session import table
from seqdni.recipes.trained import exported


def evaluate(given: argparse.Namespace) -> int:
    """``seqdni eval``."""
    directory, recipe, options = _existing(given)
    names = ("text", "split", "unknown")
    asked = {name: getattr(given, name) for name in names if getattr(given, name)}
    if asked and not recipe.reads_text:
        words = f"{given.dir} is a run of {options.recipe}"
        raise RunError(f"--text, --split and --unknown are for runs of lm; {words}")
    if not recipe.reads_text:
        _refuse_export(directory, "eval")
    print(table(short(recipe.file.evaluate(directory, options, **asked))))
    return 0


def sample(given: argparse.Namespace) -> int:
    """``seqdni sample``."""
    directory, recipe, options = _existing(given)
    if given.length is not None and given.length < 1:
        raise RunError(f"--length is {given.length}, expected at least 1")
    if not 0 <= given.seed <= MOST:
        raise RunError(f"--seed is {given.seed}, expected 0 to {MOST}")
    if not 0 <= given.temperature < math.inf:
        raise RunError(f"--temperature is {given.temperature}, expected a number of at least 0")
    if given.top_k is not None and given.top_k < 1:
        raise RunError(f"--top-k is {given.top_k}, expected at least 1")
    if not recipe.reads_text:
        _refuse_export(directory, "sample")
    asked = Sampling(given.length, given.seed, given.temperature, given.top_k, given.prompt)
    recipe.file.sample(directory, options, asked)
    return 0


def horizon(given: argparse.Namespace) -> int:
    """``seqdni horizon``."""
    directory, recipe, options = _existing(given)
    if given.length is not None and given.length < 1:
        raise RunError(f"--length is {given.length}, expected at least 1")
    _refuse_export(directory, "horizon")
    found = measure(directory, options, recipe.file.held_out(directory, options, given.length))
    print(report(directory, found))
    return 0


def export(given: argparse.Namespace) -> int:
    """``seqdni export``."""
    directory, recipe, options = _existing(given)
    model, files = exported(recipe.file.trained(directory, options))
    out = directory.path / "export" if given.out is None else Path(given.out)
    if given.out is None and out.is_symlink():
        raise RunError(f"{out} is a link; give a folder to write to with --out")
    for path in write_export(model, files, directory.path / "config.yaml", out):
        print(path)
    return 0


def plot(given: argparse.Namespace) -> int:
    """``seqdni plot``."""
    runs = {}
    for path in given.dirs:
        directory, _, options = saved_run(path)
        runs[directory.path.resolve()] = read_curves(directory.path, options)
    print(draw(list(runs.values()), given.metric, given.against, given.out))
    return 0


def _refuse_export(directory: RunDirectory, command: str) -> None:
    """Refuse a command that needs more of a run than its model."""
    if (directory.path / WEIGHTS).exists() and not (directory.path / "last.pt").exists():
        raise RunError(f"{directory.path} is an export; seqdni {command} needs the run itself")


def _existing(given: argparse.Namespace) -> tuple[RunDirectory, Recipe, Any]:
    directory, recipe, options = saved_run(given.dir)
    options.device = given.device
    if hasattr(options, "compiled"):
        options.compiled = False  # a machine that only reads a run needs no compiler
    if getattr(given, "data_dir", None):
        if not hasattr(options, "data_dir"):
            raise RunError(f"--data-dir has no effect: {given.dir} is a run of {options.recipe}")
        options.data_dir = given.data_dir
    recipe.file.prepare(options)
    return directory, recipe, options
