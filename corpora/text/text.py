"""A corpus before it is encoded: the manual in the standard library, or your own text."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.source import Piece, Source, Stretch, whole_file
from seqdni.corpora.text.split import cut

OWN_TEXT = "give the path of a UTF-8 text file, or of a folder of .txt files"
SPLIT_FILES = {  # of a folder, beside .txt in capitals or not
    "train": ("train",),
    "valid": ("valid", "validation", "dev"),
    "test": ("test",),
}


class Text(NamedTuple):
    """A corpus before it is encoded.

    Args:
        name: for messages and reports.
        train: text to learn from.
        valid: text to choose the best model by, or None.
        test: text for the result, or None.
        words: the number of words of each split, with line ends, if it is known. A corpus of words
            or subwords with other numbers is refused.
        left_out: files of a folder that are not read, as paths in the folder.

    Example:
        >>> list(Text("greeting", "hello", None, "hole").splits())
        ['train', 'test']
    """

    name: str
    train: Source
    valid: Source | None
    test: Source | None
    words: Mapping[str, int] | None = None
    left_out: tuple[str, ...] = ()

    def splits(self) -> dict[str, Source]:
        """The splits that are not None, by name."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {split: part for split, part in parts.items() if part is not None}


def pydoc_text() -> Text:
    """Read the manual in the standard library (`pydoc_data.topics`), split 90/5/5; no download.

    The topics in the order of their keys, joined by newlines, are about 465 thousand characters of
    English and code with Python 3.11. Other Python versions have other texts: compare errors only
    within one version.

    Returns:
        The text; each split is a contiguous part.

    Raises:
        CorpusError: this Python comes without `pydoc_data`.

    Example:
        >>> text = pydoc_text()
        >>> text.name, len(text.train) > 300_000
        ('pydoc', True)
    """
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError:
        raise CorpusError(
            "this Python has no pydoc_data.topics; give a text file of your own, "
            "or install a Python with its full standard library"
        ) from None
    whole = "\n".join(topics[key] for key in sorted(topics))
    part = int(len(whole) * 0.05)
    return Text("pydoc", whole[: -2 * part], whole[-2 * part : -part], whole[-part:])


def own_text(path: str | Path, valid_fraction: float = 0.05, test_fraction: float = 0.05) -> Text:
    """Read your own text: a UTF-8 file, or a folder of such files.

    Each line end becomes one newline, whichever the file has, and a byte-order mark is left out;
    nothing else is changed. A folder with train.txt has the splits of its files: train.txt, perhaps
    valid.txt (or validation.txt or dev.txt), and perhaps test.txt. In any other folder, all .txt
    files, also those in its subfolders, are one text in the order of their paths. The end of one
    text is the test split, and the part before it is for validation. Both begin with a line if one
    begins nearby.

    Args:
        path: of the file or folder; the text may be larger than memory.
        valid_fraction: share of the bytes, >= 0; 0 makes no such split.
        test_fraction: share of the bytes, >= 0; 0 makes no such split.

    Returns:
        The text, not yet read; `left_out` names the files of the folder that are not read.

    Raises:
        CorpusError: the file does not exist, or is unreadable, empty, or too short to split; or a
            folder has two files for a split.
        ValueError: the fractions leave nothing to train on.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "verse.txt")
        ...     _ = path.write_text("tick tock " * 10)
        ...     text = own_text(path, test_fraction=0.0)
        >>> text.name, text.train.size, text.valid.size, text.test
        ('verse.txt', 95, 5, None)
    """
    if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise ValueError(
            f"valid_fraction {valid_fraction} and test_fraction {test_fraction}: "
            "expected both >= 0 and their sum < 1"
        )
    path = Path(path).expanduser()
    if own := own_splits(path):
        parts = {split: whole_file(file, OWN_TEXT, text_mode=True) for split, file in own.items()}
        left_out = _left_out(path, set(own.values()))
        return checked(
            Text(
                *(path.name, parts["train"], parts.get("valid"), parts.get("test")),
                left_out=left_out,
            )
        )
    files = _files(path) if path.is_dir() else [path]
    pieces: list[Piece] = []
    for file in files:
        pieces += whole_file(file, OWN_TEXT, text_mode=True).pieces
    whole = Stretch(tuple(pieces), text_mode=True)
    if not whole.size:
        raise CorpusError(f"{path}: empty; it has no text")
    test_at = whole.size - int(whole.size * test_fraction)
    valid_at = test_at - int(whole.size * valid_fraction)
    train, valid, test = cut(whole, [valid_at, test_at])
    return checked(
        Text(
            *(path.name, train, valid if valid_fraction else None, test if test_fraction else None),
            left_out=_left_out(path, set(files)) if path.is_dir() else (),
        )
    )


def own_splits(path: str | Path) -> dict[str, Path]:
    """The files of a folder that has a file for each split.

    Args:
        path: of the folder.

    Returns:
        train.txt and the other files by the names of their splits; empty where there is no
        train.txt.

    Raises:
        CorpusError: two files are for the same split.

    Example:
        >>> own_splits("nowhere")
        {}
    """
    path, found = Path(path).expanduser(), {}
    if not path.is_dir():
        return found
    files = [file for file in sorted(path.iterdir()) if _is_text(file)]
    for split, stems in SPLIT_FILES.items():
        own = [file for file in files if file.stem.lower() in stems]
        if split == "train" and not own:
            return found
        if len(own) > 1:
            names = " and ".join(file.name for file in own)
            raise CorpusError(f"{path}: {names} are for the same split ({split}); keep one of them")
        if own:
            found[split] = own[0]
    return found


def checked(text: Text) -> Text:
    """Refuse a text with a split that is too short.

    Args:
        text: the corpus.

    Returns:
        The same corpus.

    Raises:
        CorpusError: a split has less than two bytes.
    """
    for split, part in text.splits().items():
        size = part.size if isinstance(part, Stretch) else len(part)
        if size < 2:
            raise CorpusError(
                f"{text.name}: {size} bytes for {split}, expected at least 2; give a longer text, "
                "or other fractions (0 makes no such split)"
            )
    return text


def _is_text(file: Path) -> bool:
    return file.suffix.lower() == ".txt" and file.is_file()


def _files(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if _is_text(file))
    if not files:
        raise CorpusError(f"{path}: no .txt file in this folder; {OWN_TEXT}")
    return files


def _left_out(path: Path, files: set[Path]) -> tuple[str, ...]:
    """The other files of a folder, without hidden ones."""
    others = (file.relative_to(path) for file in path.rglob("*") if file not in files)
    named = (p for p in others if not any(part.startswith(".") for part in p.parts))
    return tuple(sorted(str(p) for p in named if (path / p).is_file()))
