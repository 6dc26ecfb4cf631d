"""``--init-from DIR``: training starts from the weights of another run, or of an export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from seqdni import Checkpointed, Reweighted
from seqdni.corpora import CorpusError, KnownVocabulary, vocabulary_from
from seqdni.recipes.checkpoint import Damaged, check_weights
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError, one_line
from seqdni.recipes.session import Session


def known_tokens(folder: str) -> KnownVocabulary:
    """The vocabulary of a language model that is to be trained further.

    Args:
        folder: of its run or export.

    Returns:
        The vocabulary, as a kind of tokens.

    Raises:
        RunError: the folder has no vocabulary, or a damaged one.
    """
    saved = _saved(folder)
    try:
        vocabulary = vocabulary_from(saved["progress"]["vocabulary"])
    except (KeyError, CorpusError) as error:
        raise RunError(
            f"--init-from {folder}: no vocabulary there ({one_line(error)}); give a run of lm"
        ) from None
    return KnownVocabulary(vocabulary)


def start_from(session: Session, folder: str) -> None:
    """Replace the random weights of a new run by those of another.

    Args:
        session: of that run.
        folder: of another run, or of an export.

    Raises:
        RunError: the other weights do not fit the model.
    """
    saved = _saved(folder)
    model: Any = session.trainer.model
    if isinstance(model, (Checkpointed, Reweighted)):
        model = model.core
    own = model.state_dict()
    weights = saved["trainer"].get("model")
    if isinstance(weights, dict) and not own.keys() <= weights.keys():  # saved with a wrapper
        weights = {str(name).removeprefix("core."): part for name, part in weights.items()}
    try:
        check_weights(weights, own)
        model.load_state_dict(weights)
    except (Damaged, RuntimeError) as error:
        raise RunError(
            f"--init-from {folder} has another model ({one_line(error)}); give the same --core, "
            "--hidden, --layers and other options of the model: see its config.yaml"
        ) from None


def _saved(folder: str) -> dict[str, Any]:
    directory, _ = RunDirectory.open(folder)
    best = os.path.lexists(Path(folder, "best.pt"))
    return directory.load("best" if best else "last")
