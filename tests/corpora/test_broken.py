"""Broken corpora, each with the one line that says what is wrong with it and what to do."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seqdni.corpora import (
    Characters,
    CorpusError,
    Stretch,
    Subwords,
    Text,
    TokenStream,
    Words,
    encode_splits,
    enwik8_text,
    evaluation_chunks,
    own_text,
    ptb_text,
    text8_text,
    vocabulary_from,
    wikitext_text,
)
from seqdni.corpora.text import source
from seqdni.corpora.text.source import Piece

Break = Callable[[Path], object]


def file(content: bytes, tokens=None, **fractions) -> Break:
    """A text file of one's own with this content, encoded."""

    def read(folder: Path):
        path = folder / "own.txt"
        path.write_bytes(content)
        return encode_splits(own_text(path, **fractions), tokens, folder / "cache")

    return read


def files(read: Break, **contents: bytes) -> Break:
    """A folder with these files, read."""

    def write_and_read(folder: Path):
        for name, content in contents.items():
            (folder / name.replace("_", ".")).write_bytes(content)
        return read(folder)

    return write_and_read


def unreadable(folder: Path):
    path = folder / "own.txt"
    path.symlink_to(path)  # an error for root too, who may read what chmod forbids
    return own_text(path)


def shrinks(folder: Path):
    path = folder / "own.txt"
    path.write_text("tick tock\n" * 100)
    text = own_text(path)
    path.write_text("tick tock\n" * 50)
    return encode_splits(text, cache_dir=folder / "cache")


def removed(folder: Path):
    path = folder / "own.txt"
    path.write_text("tick tock\n" * 100)
    text = own_text(path)
    path.unlink()
    return encode_splits(text, cache_dir=folder / "cache")


def cache_is_below_a_file(folder: Path):
    (folder / "file").touch()
    return encode_splits(Text("clock", "tick", None, None), cache_dir=folder / "file" / "below")


def cache_cannot_be_repaired(folder: Path):
    text = Text("clock", "tick", None, None)
    encoded = encode_splits(text, cache_dir=folder)
    place = Path(encoded.train.filename).parent
    (place / "train.bin").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "seqdni.corpora.text.cache._put", lambda *args: None
        )  # another process always wins
        return encode_splits(text, cache_dir=folder)


def disk_full(folder: Path):
    def sync(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqdni.corpora.text.cache._sync", sync)
        return encode_splits(Text("clock", "tick", None, None), cache_dir=folder)


def split_is(split: str, content: str) -> Break:
    text = Text("clock", "tick", "tock", "tack")._replace(**{split: content})
    return lambda folder: encode_splits(text, cache_dir=folder / "cache")


def saved(vocabulary: dict) -> Break:
    return lambda folder: vocabulary_from(vocabulary)


def giant_word(tokens) -> Break:
    def read(folder: Path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source, "BLOCK", 1000)
            patch.setattr(source, "LONGEST_WORD", 5000)
            return file(b"tick tock\n" + b"x" * 100_000, tokens)(folder)

    return read


def encoded_ids(content: bytes, use) -> Break:
    return lambda folder: use(file(content, valid_fraction=0.0, test_fraction=0.0)(folder).train)


TICKS = b"tick tock\n" * 30
BROKEN: dict[str, tuple[Break, str]] = {
    "no file": (lambda f: own_text(f / "own.txt"), r"own\.txt: No such file .*; give the path"),
    "empty": (file(b""), r"own\.txt: empty; it has no text"),
    "white space": (file(b" \n\t \n" * 30), r"own\.txt: the train split is only white space; give"),
    "one byte": (file(b"x"), r"own\.txt: 1 bytes for train, expected at least 2; give a longer"),
    "too short": (
        file(b"thirty characters or so of text"),
        r"own\.txt: 1 bytes for valid, .*or ot",
    ),
    "latin-1": (
        file(b"caf\xe9 " * 30),
        r"own\.txt: byte 3 is not UTF-8 \(.*; save the file as UTF-8",
    ),
    "late": (file(TICKS + b"\xff"), r"own\.txt: byte 300 is not UTF-8 \(invalid start byte\)"),
    "UTF-16": (
        file("tick".encode("utf-16") * 9),
        r"own\.txt: byte 3 is NUL; .*UTF-16.*; save it as",
    ),
    "UTF-16 only wide": (file("é\u0101".encode("utf-16") * 9), r"own\.txt: byte \d is NU|not UTF"),
    "NUL": (file(TICKS + b"\0" + TICKS), r"own\.txt: byte 300 is NUL; this is no text in UTF-8"),
    "cut character": (
        file("tick é".encode()[:-1], valid_fraction=0.0, test_fraction=0.0),
        r"own\.txt: byte 5 is not UTF-8 \(unexpected end of data\)",
    ),
    "giant word": (
        giant_word(Words()),
        r"own\.txt: more than 5000 characters without a space or a",
    ),
    "giant piece": (
        giant_word(Subwords()),
        r"own\.txt: more than 5000 .*; read this text by charac",
    ),
    "loop of links": (
        unreadable,
        r"own\.txt: Too many levels of symbolic links; give the path of",
    ),
    "empty folder": (own_text, r"no \.txt file in this folder; give the path of a UTF-8 text file"),
    "other files": (files(own_text, own_md=TICKS), r"no \.txt file in this folder"),
    "empty files": (files(own_text, a_txt=b"", b_txt=b""), "empty; it has no text"),
    "empty split": (
        files(own_text, train_txt=TICKS, test_txt=b""),
        "0 bytes for test, expected at",
    ),
    "bad file of a folder": (
        files(
            lambda f: encode_splits(own_text(f), None, f / "c"), a_txt=TICKS, b_txt=b"\xff" * 300
        ),
        r"b\.txt: byte \d+ is not UTF-8",
    ),
    "shrinks": (shrinks, r"own\.txt: became shorter while it was read; leave it alone and try"),
    "removed": (removed, r"own\.txt: No such file or directory; make it readable"),
    "folder for a file": (
        lambda f: encode_splits(Text("x", Stretch((Piece(f, 0, 9),)), None, None), None, f / "c"),
        "Is a directory; make it readable",
    ),
    "cache below a file": (cache_is_below_a_file, r"cannot write the cache \(.*\); .*SEQDNI_CACHE"),
    "cache not repaired": (cache_cannot_be_repaired, "cannot repair the cache; delete this folder"),
    "disk full": (disk_full, r"cannot write the cache \(No space left on device\); point the"),
    "empty text": (split_is("valid", ""), "clock: the valid split is empty; give text, or None"),
    "blank text": (split_is("test", " \n"), "clock: the test split is only white space; give text"),
    "no ids": (
        encoded_ids(b"ti", lambda ids: list(evaluation_chunks(ids[:1], 1, 1))),
        "1 tokens to evaluate, expected at least 2: one to read and one to predict",
    ),
    "few ids": (
        encoded_ids(b"tick", lambda ids: TokenStream(ids, 9, 4)),
        "4 tokens for 9 rows, expected at least 10: .*; use a smaller batch_size or a longer text",
    ),
    "new character": (
        lambda f: Characters().learn(Text("", "tick", None, None)).encode("tock"),
        "character 'o' at position 1 is not among the 4 symbols of the vocabulary; remove it",
    ),
    "few pieces": (
        file("".join(map(chr, range(0x4E00, 0x5200))).encode(), Subwords(260)),
        r"own\.txt: sentencepiece cannot learn 260 pieces \(.*\); use another size, a longer text",
    ),
    "no vocabulary": (saved({}), "the saved vocabulary is damaged: KeyError"),
    "other vocabulary": (
        saved({"tokens": "bits"}),
        "tokens are 'bits', expected 'char', 'word' or",
    ),
    "symbols": (
        saved({"tokens": "char", "symbols": 3}),
        "the saved vocabulary is damaged: TypeErr",
    ),
    "words": (
        saved({"tokens": "word", "words": ["a"]}),
        "damaged: .*there is no <unk> in the vocabulary",
    ),
    "model": (saved({"tokens": "subword", "model": "AAAA"}), "3 bytes are no sentencepiece model"),
    "base64": (
        saved({"tokens": "subword", "model": "A"}),
        "the saved vocabulary is damaged: Error",
    ),
    "ptb folder": (lambda f: ptb_text(f / "ptb"), "ptb: no such folder; .*; pass its path as"),
    "ptb empty": (ptb_text, r"ptb\.train\.txt: No such file or directory; expected the folder"),
    "ptb damaged": (
        lambda f: files(ptb_text, **{f"ptb_{s}_txt": TICKS for s in ("train", "valid", "test")})(f),
        r"ptb\.train\.txt: damaged, 30 lines, expected 42068",
    ),
    "wikitext empty": (
        lambda f: wikitext_text("wikitext-2", f),
        r"wiki\.train\.tokens: No such file or directory; expected the folder with wiki\.train",
    ),
    "wikitext short": (
        files(lambda f: wikitext_text("wikitext-103", f), wiki_train_tokens=TICKS),
        r"wiki\.train\.tokens: 30 lines, expected 1801350 of wikitext-103: damaged, or another",
    ),
    "enwik8 short": (
        files(enwik8_text, enwik8=TICKS),
        "enwik8: 300 bytes, expected 100000000: dama",
    ),
    "text8 short": (
        files(text8_text, text8=TICKS),
        "text8: 300 bytes, expected 100000000: damaged",
    ),
}


@pytest.mark.parametrize(("read", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken(tmp_path, read, message):
    with pytest.raises(CorpusError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_text_is_said_in_the_words_of_its_reader(tmp_path):
    """Not as a complaint of sentencepiece, for which there is other advice."""
    with pytest.raises(CorpusError) as caught:
        giant_word(Subwords())(tmp_path)
    assert str(caught.value).endswith("; read this text by character")
