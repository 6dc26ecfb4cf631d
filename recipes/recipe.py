"""What every recipe has: what the commands call, and how a trained model is read and exported."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import nn

from seqdni.corpora import SubwordVocabulary, Vocabulary
from seqdni.recipes.build import load_weights
from seqdni.recipes.commands.export import VOCABULARY
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.held_out import HeldOut
from seqdni.recipes.options import Sampling
from seqdni.recipes.session import Session


class Trained(NamedTuple):
    """The model of a run, or of an export.

    Args:
        model: with its weights, as it is evaluated.
        progress: of the run, when the model was saved.
        vocabulary: text to token ids and back; None where the model reads no text.
        saved_part: what checkpoints hold, where that is a part of the model; None: all of it.
    """

    model: Any
    progress: dict[str, Any]
    vocabulary: Vocabulary | None = None
    saved_part: nn.Module | None = None


class RecipeFile(Protocol):
    """What a recipe does: a module with these functions, or an object with these methods."""

    def prepare(self, options: Any) -> None:
        """Refuse options that cannot work, before any data is read; make paths absolute."""

    def start(self, options: Any, directory: RunDirectory) -> Session:
        """Data, model and trainer of a run that has not begun."""
        ...

    def resumed(self, session: Session) -> None:
        """Refuse to go on with a restored session if its data is not that of the run."""

    def run(self, session: Session) -> dict[str, Any]:
        """Train a new or restored session to its end; returns what result.json holds."""
        ...

    @property
    def evaluate(self) -> Any:
        """``(directory, options)`` to the result, computed again from a checkpoint."""

    def sample(self, directory: RunDirectory, options: Any, asked: Sampling) -> None:
        """Print what the trained model makes."""

    def trained(self, directory: RunDirectory, options: Any) -> Trained:
        """The model of a run or of an export; needs no data."""
        ...

    def held_out(self, directory: RunDirectory, options: Any, length: int | None, /) -> HeldOut:
        """Data that was not trained on, for the horizon."""
        ...


class Recipe(NamedTuple):
    """A recipe, as the command line knows it.

    Args:
        summary: its line in ``seqdni ls``.
        options: dataclass of its options.
        file: what it does.
        reads_text: whether its models read text, so that they can score and continue a text.
        compared: the ways of training that ``--trainer all`` runs one after another.
    """

    summary: str
    options: type
    file: RecipeFile
    reads_text: bool = False
    compared: tuple[str, ...] = ()


def load_last(directory: RunDirectory, options: Any, model: nn.Module) -> Trained:
    """Put the last weights of a run, or those of an export, into a model that was built alike.

    Args:
        directory: of either.
        options: its options.
        model: built by these.

    Returns:
        The same model, and the run's progress.

    Raises:
        RunError: there is no checkpoint, or it does not fit the options.
    """
    saved = directory.load("last")
    load_weights(saved, directory.path / "last.pt", options, model)
    return Trained(model, saved["progress"])


def exported(found: Trained) -> tuple[nn.Module, dict[str, Any]]:
    """What others need to use a model.

    Args:
        found: the model.

    Returns:
        The module whose weights are written, and files by name: the vocabulary if there is one,
        for subwords sentencepiece's own too.
    """
    files: dict[str, Any] = {}
    if found.vocabulary is not None:
        files[VOCABULARY] = found.vocabulary.to_json()
    if isinstance(found.vocabulary, SubwordVocabulary):
        files["sentencepiece.model"] = found.vocabulary.model
    return found.model if found.saved_part is None else found.saved_part, files


def check_no_text(asked: Sampling) -> None:
    """Refuse what only a language model can be asked for.

    Args:
        asked: by the user.

    Raises:
        RunError: a prompt, a temperature or a top-k was given.
    """
    if asked != Sampling(asked.length, asked.seed):
        raise RunError("--prompt, --temperature and --top-k are for runs of lm")


def check_same_images(options: Any, digest: str | None, progress: dict[str, Any]) -> None:
    """Refuse images that a run was not trained on.

    Args:
        options: of the run.
        digest: of the images that are there now; None where all is drawn.
        progress: of the run, with that of its own.

    Raises:
        RunError: they are others.
    """
    if digest != progress.get("data"):
        where = getattr(options, "data_dir", None) or "scikit-learn"
        raise RunError(f"{where} has other images than the run was trained on; put those back")


def resumed(session: Session) -> None:
    """Refuse to go on with other images.

    Args:
        session: restored; its data has a digest.

    Raises:
        RunError: the data is not that of the run.
    """
    check_same_images(session.options, session.data.digest, session.progress)
