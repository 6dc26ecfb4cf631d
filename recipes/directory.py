"""The folder of a run: config.yaml, metrics.jsonl, checkpoints, result.json, TensorBoard events."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from recipes.errors import RunError, one_line


class RunDirectory:
    """Files of one run. Nothing in it is ever half written, and reading it executes no code.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._board: Any = None

    @classmethod
    def create(cls, options: Any) -> RunDirectory:
        """A new folder with the effective options in it.

        Args:
            options: a recipe's options; ``out`` names the folder, or None for ``runs/RECIPE/TIME``.

        Returns:
            The directory.

        Raises:
            RunError: there is a run in it already.
        """
        directory = cls(new_folder(options.out, options.recipe))
        directory.write_options(options)
        return directory

    def write_options(self, options: Any) -> None:
        """Write config.yaml; a result of other options is no longer one.

        Args:
            options: a recipe's options.
        """
        text = yaml.safe_dump({**asdict(options), "out": None}, sort_keys=False)
        self._write("config.yaml", text.encode())
        (self.path / "result.json").unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | Path, recipe: str | None = None) -> tuple[RunDirectory, dict]:
        """An existing run.

        Args:
            path: its folder.
            recipe: what it must be a run of; None takes any.

        Returns:
            The directory and its options.

        Raises:
            RunError: it is no run, or one of another recipe.
        """
        directory = cls(path)
        try:
            options = yaml.safe_load((directory.path / "config.yaml").read_text())
            found = options["recipe"]
            if not isinstance(found, str):
                raise TypeError
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            raise RunError(
                f"{path} is not the folder of a run: expected a config.yaml written by seqdni run"
            ) from None
        if recipe is not None and found != recipe:
            raise RunError(
                f"{path} is a run of {found!r}, not of {recipe!r}; "
                f"continue it with: seqdni run {found} --resume {path}"
            )
        return directory, options

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to metrics.jsonl, and its numbers to TensorBoard where that is installed.

        Args:
            row: with ``update`` and ``tokens``, what was trained so far.
        """
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(_finite(row)) + "\n")
        if self._board is None:
            self._board = _summary_writer(self.path)
        if self._board:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "update":
                    self._board.add_scalar(name, value, row["update"])

    def forget_metrics_after(self, tokens: int) -> None:
        """Drop rows that a stopped run wrote after its last checkpoint; they will come again.

        Args:
            tokens: trained on at the checkpoint.
        """
        path = self.path / "metrics.jsonl"
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["tokens"] <= tokens]
            self._write("metrics.jsonl", "".join(kept).encode())

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint: whole or not at all.

        Args:
            name: ``last`` or ``best``.
            state: tensors and primitives.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write(f"{name}.pt", buffer.getbuffer())

    def load(self, name: str) -> dict[str, Any]:
        """Read a checkpoint; tensors and primitives only, no code.

        Args:
            name: ``last`` or ``best``.

        Returns:
            What was saved.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        path = self.path / f"{name}.pt"
        if not path.exists():
            raise RunError(f"{self.path} has no {name}.pt: the run stopped before a checkpoint")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes of torch.load
            raise RunError(f"{path} cannot be read as a checkpoint: {one_line(error)}") from None
        if not isinstance(saved, dict) or not {"trainer", "stream", "progress"} <= saved.keys():
            raise RunError(f"{path} does not fit: it is no checkpoint of a run")
        return saved

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file.

        Args:
            name: of the file, e.g. ``result.json``.
            content: numbers and names.
        """
        self._write(name, (json.dumps(_finite(content), indent=2) + "\n").encode())

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        if self._board:
            self._board.close()

    def _write(self, name: str, data: bytes | memoryview) -> None:
        temporary = self.path / f".{name}.part"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)
        finally:
            temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def new_folder(out: str | None, recipe: str) -> Path:
    """An empty folder.

    Args:
        out: its name; None for ``runs/RECIPE/TIME``.
        recipe: its name.

    Returns:
        The folder.

    Raises:
        RunError: there is something in it already.
    """
    if out is None:
        return _new_folder(Path("runs", recipe))
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"--out {path} exists and is not an empty folder; name another, "
            f"or continue that run with --resume {path}"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _new_folder(parent: Path) -> Path:
    """A folder named by the time, made by this call and no other."""
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
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(path))
    except ImportError:
        return False
