"""The folder of a run: config.yaml, metrics.jsonl, checkpoints, result.json, TensorBoard events."""

from __future__ import annotations

import importlib
import json
import math
import os
import secrets
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from seqdni.recipes.checkpoint import Damaged, check_finite, checkpoint_bytes, read_checkpoint
from seqdni.recipes.commands.export import WEIGHTS, read_export
from seqdni.recipes.config_file import parse_config
from seqdni.recipes.errors import RunError
from seqdni.recipes.files import UNFINISHED, append, read_whole, remove_unfinished, write_whole
from seqdni.recipes.launched import rank
from seqdni.recipes.lock import NAME as LOCK
from seqdni.recipes.lock import lock
from seqdni.recipes.processes import told_by_first

MOST = 1 << 20  # largest size of a config.yaml in bytes


class RunDirectory:
    """The files of one run. No file is ever half written, and reading them executes no code.

    Nothing is read or written through a link, so that a folder that comes from somebody else cannot
    lead to files outside of it.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.written = rank() == 0  # of several processes the first alone writes
        self._board: Any = None
        self._lock: int | None = None

    @classmethod
    def create(cls, options: Any) -> RunDirectory:
        """Make a new folder with the run's options in it, and lock it.

        Args:
            options: a recipe's options; ``out`` names the folder, or None for ``runs/RECIPE/TIME``.

        Returns:
            The directory.

        Raises:
            RunError: the folder has a run already.
        """
        path = str(new_folder(options.out, options.recipe)) if rank() == 0 else ""
        directory = cls(told_by_first(path))
        directory.lock()
        directory.write_options(options)
        return directory

    def lock(self) -> None:
        """Keep other processes from writing to this folder, until :meth:`close`.

        Raises:
            RunError: another process writes to it; the message names that process.
        """
        if self.written:
            self._lock = lock(self.path)
            remove_unfinished(self.path)

    def write_options(self, options: Any) -> None:
        """Write config.yaml, and remove result.json, which may belong to other options.

        Args:
            options: a recipe's options.
        """
        if not self.written:
            return
        text = yaml.safe_dump({**asdict(options), "out": None}, sort_keys=False)
        write_whole(self.path, "config.yaml", text.encode())
        (self.path / "result.json").unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | Path, recipe: str | None = None) -> tuple[RunDirectory, dict]:
        """Open the folder of an existing run.

        Args:
            path: the folder.
            recipe: the recipe that it must be a run of; None: any.

        Returns:
            The directory and its options.

        Raises:
            RunError: it is not the folder of a run, or the run is of another recipe.
        """
        directory = cls(path)
        try:
            content = read_whole(directory.path, "config.yaml", MOST)
        except OSError:
            content = b""
        options = parse_config(content, directory.path / "config.yaml")
        found = options.get("recipe")
        if not isinstance(found, str):
            raise RunError(
                f"{path} is not the folder of a run: expected a config.yaml written by seqdni run"
            )
        if recipe is not None and found != recipe:
            raise RunError(
                f"{path} is a run of {found!r}, not of {recipe!r}; "
                f"continue it with: seqdni run {found} --resume {path}"
            )
        return directory, options

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to metrics.jsonl, and its numbers to TensorBoard where that is installed.

        Args:
            row: numbers by name, among them ``update`` and ``tokens``.
        """
        if not self.written:
            return
        append(self.path, "metrics.jsonl", json.dumps(_finite(row)) + "\n")
        if self._board is None:
            self._board = _summary_writer(self.path)
        if self._board:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "update":
                    self._board.add_scalar(name, value, row["update"])

    def forget_metrics_after(self, tokens: int) -> None:
        """Drop rows that a stopped run wrote after its last checkpoint; it will write them again.

        Damaged rows are dropped too, and their number is printed on standard error.

        Args:
            tokens: number of tokens trained on until the checkpoint.
        """
        if not self.written:
            return
        try:
            lines = read_whole(self.path, "metrics.jsonl").splitlines(keepends=True)
        except FileNotFoundError:
            return
        whole = [line for line in lines if line.endswith(b"\n")]
        at = [_tokens_of(line) for line in whole]
        if damaged := at.count(None):
            path = self.path / "metrics.jsonl"
            print(f"seqdni: {path}: left out {damaged} damaged lines", file=sys.stderr)
        rows = zip(whole, at, strict=True)
        kept = [line for line, now in rows if now is not None and now <= tokens]
        write_whole(self.path, "metrics.jsonl", b"".join(kept))

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            name: ``last`` or ``best``.
            state: tensors and primitives.
        """
        if self.written:
            write_whole(self.path, f"{name}.pt", checkpoint_bytes(state))

    def load(self, name: str) -> dict[str, Any]:
        """Read a checkpoint, or an export where there is none, without running any code in it.

        Args:
            name: ``last`` or ``best``.

        Returns:
            What was saved.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        path = self.path / f"{name}.pt"
        try:
            data = read_whole(self.path, path.name)
        except FileNotFoundError:
            if os.path.lexists(self.path / WEIGHTS):
                return read_export(self.path)
            raise RunError(
                f"{self.path} has no {name}.pt: the run stopped before a checkpoint"
            ) from None
        try:
            saved = read_checkpoint(data)
        except Damaged as reason:
            raise RunError(
                f"{path} cannot be read as a checkpoint: {reason}; put back a copy of it, or begin "
                "a new run"
            ) from None
        if not isinstance(saved, dict) or not all(
            isinstance(saved.get(part), dict) for part in ("trainer", "stream", "progress")
        ):
            raise RunError(f"{path} does not fit: it is no checkpoint of a run")
        try:
            check_finite(saved["trainer"])
        except Damaged as reason:
            raise RunError(f"{path} does not fit: {reason}; put back a copy of it") from None
        return saved

    def has_checkpoint(self) -> bool:
        """Whether the run has a checkpoint; one without begins again with its options."""
        return any(os.path.lexists(self.path / name) for name in ("last.pt", WEIGHTS))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file.

        Args:
            name: of the file, e.g. ``result.json``.
            content: numbers and names.
        """
        text = json.dumps(_finite(content), indent=2) + "\n"
        if self.written:
            write_whole(self.path, name, text.encode())

    def close(self) -> None:
        """Finish writing for TensorBoard, and let other processes write to the folder."""
        if self._board:
            self._board.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _tokens_of(line: bytes) -> int | float | None:
    """The number of tokens in a row of metrics.jsonl; None where the row is damaged."""
    try:
        tokens = json.loads(line)["tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tokens if isinstance(tokens, (int, float)) else None


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, because JSON does not have them."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def new_folder(out: str | None, recipe: str) -> Path:
    """Make an empty folder. One with nothing but files that a killed process left counts as empty.

    Args:
        out: its name; None for ``runs/RECIPE/TIME``.
        recipe: name of the recipe.

    Returns:
        The folder.

    Raises:
        RunError: the folder is not empty.
    """
    if out is None:
        return _new_folder(Path("runs", recipe))
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(map(_is_of_a_run, path.iterdir()))):
        raise RunError(
            f"--out {path} exists and is not an empty folder; name another, "
            f"or continue that run with --resume {path}"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _is_of_a_run(path: Path) -> bool:
    return path.name != LOCK and not path.match(UNFINISHED)


def _new_folder(parent: Path) -> Path:
    """Make a folder named by the time, which did not exist before."""
    now, number = time.strftime("%Y%m%d-%H%M%S"), 1
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / (now if number == 1 else f"{now}-{number}")
        try:
            path.mkdir()
        except FileExistsError:  # two runs in one second
            number += 1
        else:
            return path


def _summary_writer(path: Path) -> Any:
    """A TensorBoard writer, or False where TensorBoard is not installed."""
    try:
        board = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        return False
    # It follows links, so its file has a name that nobody can have put there before.
    return board.SummaryWriter(str(path), filename_suffix=f".{secrets.token_hex(8)}")
