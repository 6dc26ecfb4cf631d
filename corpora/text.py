"""Where text comes from: the standard library's manual, Penn Treebank, or a file of one's own."""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from corpora.errors import CorpusError

PTB_LINES = {"train": 42_068, "valid": 3_370, "test": 3_761}
PTB_CHARACTERS = {"train": 5_017_482, "valid": 393_042, "test": 442_423}
PTB_SYMBOLS = 50
PTB_HELP = (
    "expected the folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt: "
    "the 'data' folder of Mikolov's simple-examples archive; pass its path as --data-dir"
)


class Text(NamedTuple):
    """A corpus before it is encoded.

    Args:
        name: for people and reports.
        train: text to learn from.
        valid: text to select by, or None.
        test: text to report on, or None.
    """

    name: str
    train: str
    valid: str | None
    test: str | None


def pydoc_text() -> Text:
    """The manual inside the standard library (`pydoc_data.topics`), split 90/5/5; no download.

    The topics in the order of their keys, joined by newlines: about 465 thousand characters of
    English and code on Python 3.11. Other Python versions have other texts, so compare figures
    within one version only.

    Returns:
        The text, each split contiguous.

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
    return _split("pydoc", "\n".join(topics[key] for key in sorted(topics)), 0.05, 0.05)


def ptb_text(data_dir: str | Path) -> Text:
    """Penn Treebank characters: each line's words joined by `_`, then one newline.

    Args:
        data_dir: folder with Mikolov's ptb.train.txt, ptb.valid.txt and ptb.test.txt.

    Returns:
        5,017,482 / 393,042 / 442,423 characters of 50 types.

    Raises:
        CorpusError: a file is missing, or is not the one expected.

    Example:
        >>> ptb_text("nowhere")
        Traceback (most recent call last):
            ...
        corpora.errors.CorpusError: nowhere: no such folder; expected the folder with \
ptb.train.txt, ptb.valid.txt and ptb.test.txt: the 'data' folder of Mikolov's simple-examples \
archive; pass its path as --data-dir

    Source: Mikolov et al., Recurrent neural network based language model (2010).
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise CorpusError(f"{folder}: {problem}; {PTB_HELP}")
    splits = {split: _ptb_split(folder, split) for split in PTB_LINES}
    symbols = len(set().union(*splits.values()))
    if symbols != PTB_SYMBOLS:
        raise CorpusError(
            f"{folder}: {symbols} symbol types, expected {PTB_SYMBOLS}; "
            f"the files are damaged; {PTB_HELP}"
        )
    return Text("ptb", **splits)


def file_text(path: str | Path, valid_fraction: float = 0.05, test_fraction: float = 0.05) -> Text:
    """A UTF-8 file of one's own, as it is: its end is the test text, what precedes it validation.

    Args:
        path: of the file; nothing in it is normalised.
        valid_fraction: share of the characters, >= 0; 0 makes no such split.
        test_fraction: share of the characters, >= 0; 0 makes no such split.

    Returns:
        The text, each split contiguous and of at least two characters.

    Raises:
        CorpusError: no such file, unreadable, not UTF-8, blank, or too short to split.
        ValueError: the fractions leave nothing to train on.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "verse.txt")
        ...     _ = path.write_text("tick tock " * 10)
        ...     text = file_text(path, test_fraction=0.0)
        >>> text.name, len(text.train), text.valid, text.test
        ('verse.txt', 95, 'tock ', None)
    """
    if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise ValueError(
            f"valid_fraction {valid_fraction} and test_fraction {test_fraction}: "
            "expected both >= 0 and their sum < 1"
        )
    path = Path(path).expanduser()
    text = _read(path, "give the path of a UTF-8 text file")
    if not text.strip():
        raise CorpusError(f"{path}: {'only white space' if text else 'empty'}; it has no text")
    return _split(path.name, text, valid_fraction, test_fraction)


def _ptb_split(folder: Path, split: str) -> str:
    path = folder / f"ptb.{split}.txt"
    lines = _read(path, PTB_HELP).splitlines()
    if len(lines) != PTB_LINES[split]:
        raise CorpusError(f"{path}: {len(lines)} lines, expected {PTB_LINES[split]}; {PTB_HELP}")
    text = "".join("_".join(line.split()) + "\n" for line in lines)
    if len(text) != PTB_CHARACTERS[split]:
        raise CorpusError(
            f"{path}: {len(text)} characters, expected {PTB_CHARACTERS[split]}; {PTB_HELP}"
        )
    return text


def _read(path: Path, remedy: str) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; {remedy}") from None


def _split(name: str, text: str, valid_fraction: float, test_fraction: float) -> Text:
    valid_len, test_len = int(len(text) * valid_fraction), int(len(text) * test_fraction)
    test_at = len(text) - test_len
    valid_at = test_at - valid_len
    result = Text(
        name,
        text[:valid_at],
        text[valid_at:test_at] if valid_fraction else None,
        text[test_at:] if test_fraction else None,
    )
    for split, part in result._asdict().items():
        if part is not None and len(part) < 2:
            raise CorpusError(
                f"{name}: {len(text)} characters leave {len(part)} for {split}, expected at "
                "least 2; give a longer text or other fractions (0 makes no such split)"
            )
    return result
