"""Text of Wikipedia in its usual splits: WikiText-2 and WikiText-103 by word, enwik8, text8."""

import hashlib
from pathlib import Path
from typing import Literal

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.download import Remote, fetch
from seqdni.corpora.text.source import Piece, Stretch, raw, whole_file
from seqdni.corpora.text.text import Text

WikiText = Literal["wikitext-2", "wikitext-103"]
LINES = {
    "wikitext-2": {"train": 36_718, "valid": 3_760, "test": 4_358},
    "wikitext-103": {"train": 1_801_350, "valid": 3_760, "test": 4_358},
}
WORDS = {  # <eos> for each line among them
    "wikitext-2": {"train": 2_088_628, "valid": 217_646, "test": 245_569},
    "wikitext-103": {"train": 103_227_021, "valid": 217_646, "test": 245_569},
}
WIKITEXT_CHECKSUM = {
    "wikitext-2": "sha256:92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
    "wikitext-103": "sha1:0aec09a7537b58d4bb65362fee27650eeaba625a",
}
BYTES = {"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000}  # of enwik8 and of text8
ENWIK8_SHA1 = "57b8363b814821dc9d47aa4d41f58733519076b2"
TEXT8_SHA256 = "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7"
WIKITEXT_SITE = "https://wikitext.smerity.com"
BYTES_SITE = "http://mattmahoney.net/dc"
ENWIK8 = Remote(f"{BYTES_SITE}/enwik8.zip", None, ("enwik8",))  # what is in it is checked
TEXT8 = Remote(
    f"{BYTES_SITE}/text8.zip",
    "sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ("text8",),
)


def wikitext_text(name: WikiText, data_dir: str | Path | None = None) -> Text:
    """WikiText-2 or WikiText-103, the tokenised version with `<unk>`, not the raw one.

    Words are what white space separates, with one `<eos>` a line; blank lines are lines. WikiText-2
    has 2,088,628 / 217,646 / 245,569 words of 33,278 types, WikiText-103 has 103,227,021 / 217,646
    / 245,569 of 267,735, `<eos>` and `<unk>` among them. The lines are counted here, the words when
    the text is encoded by word or subword.

    Args:
        name: ``"wikitext-2"`` or ``"wikitext-103"``.
        data_dir: folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, or with a
            folder of the corpus's name that has them; None downloads them once.

    Returns:
        The text, read line by line when it is encoded.

    Raises:
        CorpusError: a file is missing or not complete, or cannot be downloaded.
        ValueError: another name.

    Example:
        >>> wikitext_text("wikitext-2", "nowhere")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: nowhere: no such folder; expected the folder with \
wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, which \
https://wikitext.smerity.com/wikitext-2-v1.zip contains

    Source: Merity et al., Pointer Sentinel Mixture Models (arXiv 1609.07843).
    """
    if name not in LINES:
        raise ValueError(f"name is {name!r}, expected 'wikitext-2' or 'wikitext-103'")
    url = f"{WIKITEXT_SITE}/{name}-v1.zip"
    remedy = (
        "expected the folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, "
        f"which {url} contains"
    )
    if data_dir is None:
        members = tuple(f"{name}/wiki.{split}.tokens" for split in LINES[name])
        folder = fetch(name, (Remote(url, WIKITEXT_CHECKSUM[name], members),), remedy)
    else:
        folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise CorpusError(f"{folder}: {problem}; {remedy}")
    if (folder / name).is_dir():
        folder = folder / name
    parts = {}
    for split, expected in LINES[name].items():
        path = folder / f"wiki.{split}.tokens"
        parts[split] = whole_file(path, remedy)
        lines = sum(block.count(b"\n") for block in raw(parts[split]))
        if lines != expected:
            raise CorpusError(
                f"{path}: {lines} lines, expected {expected} of {name}: damaged, or another "
                f"corpus; delete it and get it again; {remedy}"
            )
    return Text(name, **parts, words=WORDS[name])


def enwik8_text(data_dir: str | Path | None = None) -> Text:
    """The first 100,000,000 bytes of a dump of the English Wikipedia: 90, 5 and 5 million bytes.

    Its symbols are bytes: each is read as the character of that number (Latin-1), so bits per
    character are bits per byte. `text.encode("latin-1").decode("utf-8")` makes it readable.

    Args:
        data_dir: the file, or the folder with a file enwik8; None downloads it once.

    Returns:
        The text, of 205 different bytes.

    Raises:
        CorpusError: the file is missing or not the one expected, or cannot be downloaded.

    Example:
        >>> enwik8_text("nowhere")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: nowhere: No such file or directory; expected \
the file enwik8 or its folder; http://mattmahoney.net/dc/enwik8.zip contains it

    Source: Matt Mahoney, http://mattmahoney.net/dc/textdata.html.
    """
    return _hundred_million("enwik8", data_dir, ENWIK8, "sha1", ENWIK8_SHA1, "latin-1")


def text8_text(data_dir: str | Path | None = None) -> Text:
    """Cleaned text of Wikipedia, a to z and the space: 90, 5 and 5 million characters, no lines.

    Args:
        data_dir: the file, or the folder with a file text8; None downloads it once.

    Returns:
        The text, of 27 different characters.

    Raises:
        CorpusError: the file is missing or not the one expected, or cannot be downloaded.

    Example:
        >>> text8_text("nowhere")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: nowhere: No such file or directory; expected \
the file text8 or its folder; http://mattmahoney.net/dc/text8.zip contains it

    Source: Matt Mahoney, http://mattmahoney.net/dc/textdata.html.
    """
    return _hundred_million("text8", data_dir, TEXT8, "sha256", TEXT8_SHA256, "utf-8")


def _hundred_million(
    name: str,
    data_dir: str | Path | None,
    remote: Remote,
    algorithm: str,
    digest: str,
    encoding: str,
) -> Text:
    remedy = f"expected the file {name} or its folder; {remote.url} contains it"
    if data_dir is None:
        data_dir = fetch(name, (remote,), remedy)
    path = Path(data_dir).expanduser()
    path = path / name if path.is_dir() else path
    whole = whole_file(path, remedy, encoding)
    if whole.size != sum(BYTES.values()):
        raise CorpusError(
            f"{path}: {whole.size} bytes, expected {sum(BYTES.values())}: damaged, or another "
            f"file; delete it and get it again; {remedy}"
        )
    own = hashlib.new(algorithm, usedforsecurity=False)
    for block in raw(whole):
        own.update(block)
    if own.hexdigest() != digest:
        raise CorpusError(
            f"{path}: its {algorithm} is {own.hexdigest()}, expected {digest}: damaged, or another "
            f"file; delete it and get it again; {remedy}"
        )
    parts, begin = {}, 0
    for split, size in BYTES.items():
        parts[split] = Stretch((Piece(path, begin, begin + size),), encoding)
        begin += size
    return Text(name, **parts)
