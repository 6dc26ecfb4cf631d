import hashlib

import pytest

from seqdni.corpora import (
    CorpusError,
    Words,
    blocks,
    encode_splits,
    enwik8_text,
    text8_text,
    wikitext_text,
)
from seqdni.corpora.text import wikipedia

WIKITEXT = {  # the exact format: a space at both ends of a line, blank lines between
    "train": " \n = Clock = \n \n A <unk> says tick @-@ tock . \n \n",
    "valid": " \n = Watch = \n \n",
    "test": " \n tick \n",
}
ENWIK8 = "<page>\n é € 𐍈 " * 10  # 200 bytes
TEXT8 = " anarchism originated as a term of abuse" * 5  # 200 bytes


@pytest.fixture
def wikitext(tmp_path, monkeypatch):
    for split, text in WIKITEXT.items():
        (tmp_path / f"wiki.{split}.tokens").write_text(text)
    monkeypatch.setitem(wikipedia.LINES, "wikitext-2", {"train": 5, "valid": 3, "test": 2})
    monkeypatch.setitem(wikipedia.WORDS, "wikitext-2", {"train": 15, "valid": 6, "test": 3})
    return tmp_path


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "BYTES", {"train": 180, "valid": 10, "test": 10})
    (tmp_path / "enwik8").write_text(ENWIK8)
    (tmp_path / "text8").write_text(TEXT8)
    enwik8, text8 = ENWIK8.encode(), TEXT8.encode()
    monkeypatch.setattr(wikipedia, "ENWIK8_SHA1", hashlib.sha1(enwik8).hexdigest())
    monkeypatch.setattr(wikipedia, "TEXT8_SHA256", hashlib.sha256(text8).hexdigest())
    return tmp_path


def test_wikitext_by_word(wikitext, tmp_path):
    encoded = encode_splits(wikitext_text("wikitext-2", wikitext), Words(), tmp_path / "cache")
    assert encoded.name == "wikitext-2"
    assert [size.tokens for size in encoded.sizes.values()] == [15, 6, 3]
    assert encoded.vocabulary.decode(encoded.test) == "\ntick\n"
    assert encoded.vocabulary.words[:2] == ("<eos>", "=")


def test_wikitext_in_its_own_folder(wikitext, tmp_path):
    inner = tmp_path / "outer" / "wikitext-2"
    inner.mkdir(parents=True)
    for path in wikitext.glob("*.tokens"):
        path.rename(inner / path.name)
    assert wikitext_text("wikitext-2", tmp_path / "outer").train.size == len(WIKITEXT["train"])


def test_wikitext_lines_missing(wikitext):
    (wikitext / "wiki.train.tokens").write_text(WIKITEXT["train"][:-2])
    expected = r"wiki\.train\.tokens: 4 lines, expected 5 of wikitext-2: damaged, or another corpus"
    with pytest.raises(CorpusError, match=expected):
        wikitext_text("wikitext-2", wikitext)


def test_wikitext_words_missing(wikitext, tmp_path):
    (wikitext / "wiki.valid.tokens").write_text(" \n = = \n \n")
    text = wikitext_text("wikitext-2", wikitext)
    with pytest.raises(CorpusError, match="5 words in the valid split, expected 6: its file is"):
        encode_splits(text, Words(), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_wikitext_split_or_folder_missing(wikitext):
    (wikitext / "wiki.test.tokens").unlink()
    with pytest.raises(CorpusError, match=r"wiki\.test\.tokens: No such file .*-2-v1\.zip"):
        wikitext_text("wikitext-2", wikitext)
    with pytest.raises(CorpusError, match=r"train\.tokens: not a folder; expected the folder"):
        wikitext_text("wikitext-2", wikitext / "wiki.train.tokens")


def test_wikitext_2_is_not_103(wikitext):
    with pytest.raises(CorpusError, match="5 lines, expected 1801350 of wikitext-103"):
        wikitext_text("wikitext-103", wikitext)
    with pytest.raises(ValueError, match="name is 'wikitext-3', expected"):
        wikitext_text.__wrapped__("wikitext-3", wikitext)  # past the check of its annotations


@pytest.mark.parametrize("place", ["", "enwik8"])
def test_enwik8_is_bytes(small, place, tmp_path):
    encoded = encode_splits(enwik8_text(small / place), cache_dir=tmp_path / "cache")
    assert [size.tokens for size in encoded.sizes.values()] == [180, 10, 10]
    whole = b"".join(
        encoded.vocabulary.decode(split).encode("latin-1")
        for split in (encoded.train, encoded.valid, encoded.test)
    )
    assert whole == ENWIK8.encode()


def test_enwik8_has_no_words(small):
    with pytest.raises(CorpusError, match=r"enwik8 is read as bytes .* read it by character"):
        encode_splits(enwik8_text(small), Words())


@pytest.mark.parametrize("place", ["", "text8"])
def test_text8(small, place):
    text = text8_text(small / place)
    assert [part.size for part in text.splits().values()] == [180, 10, 10]
    assert "".join("".join(blocks(part)) for part in text.splits().values()) == TEXT8


def test_text8_by_word(small, tmp_path):
    encoded = encode_splits(text8_text(small), Words(), tmp_path / "cache")
    assert "<eos>" not in encoded.vocabulary.words


@pytest.mark.parametrize(("read", "name"), [(enwik8_text, "enwik8"), (text8_text, "text8")])
def test_damaged_hundred_million(small, read, name):
    path = small / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CorpusError, match=rf"{name}: its sha\d+ is \w+, expected \w+: damaged"):
        read(small)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorpusError, match=rf"{name}: 199 bytes, expected 200: damaged, or"):
        read(path)
    path.unlink()
    with pytest.raises(CorpusError, match=rf"{name}: No such file .*/dc/{name}\.zip contains it"):
        read(small)
