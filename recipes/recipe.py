"""A recipe as the command line knows it, and the functions that every recipe has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from seqdni.recipes.common_options import Sampling

if TYPE_CHECKING:
    from seqdni.recipes.directory import RunDirectory
    from seqdni.recipes.held_out import HeldOut
    from seqdni.recipes.session import Session
    from seqdni.recipes.trained import Trained


class RecipeFile(Protocol):
    """The functions of a recipe, which the commands call: of a module, or methods of an object."""

    def prepare(self, options: Any) -> None:
        """Refuse options that cannot work, before any data is read, and make paths absolute."""

    def start(self, options: Any, directory: RunDirectory) -> Session:
        """Make the data, model and trainer of a new run."""
        ...

    def resumed(self, session: Session) -> None:
        """Refuse to resume a session if its data is not that of the run."""

    def run(self, session: Session) -> dict[str, Any]:
        """Train a new or restored session to its end, and return the content of result.json."""
        ...

    @property
    def evaluate(self) -> Any:
        """A function of ``(directory, options)`` that computes the result from a checkpoint."""

    def sample(self, directory: RunDirectory, options: Any, asked: Sampling) -> None:
        """Print a sample of what the trained model generates or answers."""

    def trained(self, directory: RunDirectory, options: Any) -> Trained:
        """The model of a run, or that of an export; it can be read without the data."""
        ...

    def held_out(self, directory: RunDirectory, options: Any, length: int | None, /) -> HeldOut:
        """Data that was not trained on, for ``seqdni horizon``."""
        ...


class Recipe(NamedTuple):
    """A recipe as an entry of the command line.

    Args:
        summary: its line in ``seqdni ls``.
        options: the dataclass of its options.
        load: imports and returns its functions. All else here can be shown without torch.
        reads_text: whether its models read text, so that they can score and continue a text.
        compared: the ways of training that ``--trainer all`` runs one after another.
        drawn: the metric that compares them.
    """

    summary: str
    options: type
    load: Callable[[], RecipeFile]
    reads_text: bool = False
    compared: tuple[str, ...] = ()
    drawn: str = ""

    @property
    def file(self) -> RecipeFile:
        """Its functions."""
        return self.load()
