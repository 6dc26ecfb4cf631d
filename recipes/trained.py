"""How the trained model of a run is read and exported, and what commands on it refuse."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from seqdni.corpora import SubwordVocabulary, Vocabulary
from seqdni.recipes.build import load_weights
from seqdni.recipes.commands.export import VOCABULARY
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.session import Session


class Trained(NamedTuple):
    """The model of a run, or of an export.

    Args:
        model: the model that is evaluated, with its weights.
        progress: the run's progress when the model was saved.
        vocabulary: converts text to token ids and back; None where the model reads no text.
        saved_part: the part of the model that checkpoints hold; None: all of it.
    """

    model: Any
    progress: dict[str, Any]
    vocabulary: Vocabulary | None = None
    saved_part: nn.Module | None = None


def load_last(directory: RunDirectory, options: Any, model: nn.Module) -> Trained:
    """Put the last weights of a run, or those of an export, into a model.

    Args:
        directory: of the run or export.
        options: its options.
        model: built from these options.

    Returns:
        The same model, and the run's progress.

    Raises:
        RunError: there is no checkpoint, or it does not fit the options.
    """
    saved = directory.load("last")
    load_weights(saved, directory.path / "last.pt", options, model)
    return Trained(model, saved["progress"])


def exported(found: Trained) -> tuple[nn.Module, dict[str, Any]]:
    """The parts of a trained model that an export has.

    Args:
        found: the model.

    Returns:
        The module whose weights are written, and files by name: the vocabulary if there is one,
        and for subwords also the model file of sentencepiece.
    """
    files: dict[str, Any] = {}
    if found.vocabulary is not None:
        files[VOCABULARY] = found.vocabulary.to_json()
    if isinstance(found.vocabulary, SubwordVocabulary):
        files["sentencepiece.model"] = found.vocabulary.model
    return found.model if found.saved_part is None else found.saved_part, files


def check_no_text(asked: Sampling) -> None:
    """Refuse options of ``seqdni sample`` that are for language models alone.

    Args:
        asked: the options that the user gave.

    Raises:
        RunError: a prompt, a temperature or a top-k was given.
    """
    if asked != Sampling(asked.length, asked.seed):
        raise RunError("--prompt, --temperature and --top-k are for runs of lm")


def check_same_images(options: Any, digest: str | None, progress: dict[str, Any]) -> None:
    """Refuse images that a run was not trained on.

    Args:
        options: of the run.
        digest: digest of the images that are there now; None where the data is drawn at random.
        progress: of the run, with the digest of the images that it was trained on.

    Raises:
        RunError: the digests differ.
    """
    if digest != progress.get("data"):
        where = getattr(options, "data_dir", None) or "scikit-learn"
        raise RunError(f"{where} has other images than the run was trained on; put those back")


def resumed(session: Session) -> None:
    """Refuse to resume a run with other images.

    Args:
        session: restored; its data has a digest.

    Raises:
        RunError: the data is not that of the run.
    """
    check_same_images(session.options, session.data.digest, session.progress)
