import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqdni.corpora import (
    Characters,
    CorpusError,
    Subwords,
    Text,
    Words,
    blocks,
    encode_splits,
    own_text,
    ptb_text,
)
from seqdni.corpora.text import cache
from seqdni.corpora.text.cache import _build, _folder_name

TEXT = Text("greeting", "hello, world", "hole", "red")
KINDS = [Characters(), Words(), Subwords(280)]
ROOT = Path(__file__).parents[2]


def folder_of(cache_dir: Path) -> Path:
    (folder,) = cache_dir.iterdir()
    return folder


def assert_right(encoded) -> None:
    assert encoded.name == TEXT.name
    for split in ("train", "valid", "test"):
        ids = getattr(encoded, split)
        assert isinstance(ids, np.memmap)
        assert not ids.flags.writeable
        assert encoded.vocabulary.decode(ids) == getattr(TEXT, split)
        assert encoded.sizes[split] == (len(ids), len(ids), None, None)


def forbid_building(monkeypatch) -> None:
    def build(text, tokens, folder):
        raise AssertionError("built again")

    monkeypatch.setattr("seqdni.corpora.text.cache._build", build)


def test_first_and_second_time(tmp_path, monkeypatch):
    first = encode_splits(TEXT, cache_dir=tmp_path)
    assert_right(first)
    forbid_building(monkeypatch)
    second = encode_splits(TEXT, cache_dir=tmp_path)
    assert_right(second)
    assert second.digest == first.digest
    assert encode_splits(TEXT._replace(name="other"), cache_dir=tmp_path).name == "other"


def test_missing_splits(tmp_path):
    encoded = encode_splits(TEXT._replace(valid=None, test=None), cache_dir=tmp_path)
    assert encoded.valid is None
    assert encoded.test is None
    assert encoded.vocabulary.decode(encoded.train) == TEXT.train


@pytest.mark.parametrize("tokens", KINDS)
def test_rebuilt_when_the_text_or_the_tokens_change(tmp_path, monkeypatch, tokens):
    path = tmp_path / "own.txt"
    path.write_text("tick tock\n" * 40)
    first = encode_splits(own_text(path), tokens, tmp_path / "cache")
    path.write_text("tick tack\n" * 40)
    second = encode_splits(own_text(path), tokens, tmp_path / "cache")
    assert "".join(blocks(own_text(path).test)) == second.vocabulary.decode(second.test)
    assert second.digest != first.digest
    other = Words(3)
    assert encode_splits(own_text(path), other, tmp_path / "cache").digest != second.digest
    assert len(list((tmp_path / "cache").iterdir())) == 3
    path.write_text("tick tock\n" * 40)  # as it was; the time of the change does not matter
    forbid_building(monkeypatch)
    assert encode_splits(own_text(path), tokens, tmp_path / "cache").digest == first.digest


def test_the_folder_tells_splits_and_tokens_apart():
    texts = [
        Text("", "ab", "c", "d"),
        Text("", "a", "bc", "d"),
        Text("", "ab", "cd", None),
        Text("", "ab", None, "cd"),
        Text("", "abcd", None, None),
        Text("", "ab valid 1 c", None, "d"),
    ]
    kinds = [*KINDS, Words(3), Subwords(281), Subwords(280, "bpe")]
    names = {_folder_name(text, tokens) for text in texts for tokens in kinds}
    assert len(names) == len(texts) * len(kinds)
    assert _folder_name(TEXT, Words()) == _folder_name(TEXT._replace(name="other"), Words())


def test_ptb(ptb_dir, tmp_path):
    text = ptb_text(ptb_dir)
    encoded = encode_splits(text, cache_dir=tmp_path)
    assert len(encoded.vocabulary) == 50
    assert encoded.train.dtype == np.uint8
    assert encoded.vocabulary.decode(encoded.test) == text.test
    assert (len(encoded.train), len(encoded.valid)) == (5_017_482, 393_042)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def clear(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def other_symbol(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"w", b"x") if path.suffix == ".json" else b"\1" * len(data))


def other_value(path: Path) -> None:
    path.write_text(json.dumps({"digest": 1, "vocabulary": {"tokens": "none"}}))


@pytest.mark.parametrize("damage", [remove, cut, clear, flip, other_symbol, other_value])
@pytest.mark.parametrize("name", ["train.bin", "test.bin", "meta.json"])
def test_damage_is_repaired(tmp_path, monkeypatch, damage, name):
    encode_splits(TEXT, cache_dir=tmp_path)
    damage(folder_of(tmp_path) / name)
    assert_right(encode_splits(TEXT, cache_dir=tmp_path))
    assert folder_of(tmp_path)  # nothing is left beside it
    forbid_building(monkeypatch)
    assert_right(encode_splits(TEXT, cache_dir=tmp_path))


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("seqdni.corpora.text.cache._sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encode_splits(TEXT, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_is_not_taken_for_a_cache(tmp_path):
    killed = """
import os, sys
from seqdni.corpora import Text
from seqdni.corpora.text import cache
cache._sync = lambda path: os._exit(9)
cache.encode_splits(Text("greeting", "hello, world", "hole", "red"), cache_dir=sys.argv[1])
"""
    run = subprocess.run([sys.executable, "-c", killed, tmp_path], cwd=ROOT)
    assert run.returncode == 9
    assert folder_of(tmp_path).name.startswith(".")
    assert_right(encode_splits(TEXT, cache_dir=tmp_path))


def test_another_process_finished_first(tmp_path, monkeypatch):
    """The cache appears while ours is being built: theirs stays, ours goes."""

    def build_after_another(text, tokens, folder):
        _build(text, tokens, folder)
        before = (folder / "train.bin").stat().st_ino
        _build(text, tokens, folder)
        assert (folder / "train.bin").stat().st_ino == before

    monkeypatch.setattr("seqdni.corpora.text.cache._build", build_after_another)
    assert_right(encode_splits(TEXT, cache_dir=tmp_path))
    assert folder_of(tmp_path).name == _folder_name(TEXT, Characters())


def test_the_damaged_cache_vanishes_while_ours_is_put(tmp_path, monkeypatch):
    """Another process is between moving the damaged cache away and putting its own."""
    encode_splits(TEXT, cache_dir=tmp_path)
    cut(folder_of(tmp_path) / "train.bin")
    rename = Path.rename

    def rename_late(path, target):
        try:
            return rename(path, target)
        except OSError:
            shutil.rmtree(target)
            monkeypatch.undo()
            raise

    monkeypatch.setattr(Path, "rename", rename_late)
    assert_right(encode_splits(TEXT, cache_dir=tmp_path))
    assert folder_of(tmp_path)


def test_the_text_changes_while_it_is_encoded(tmp_path, monkeypatch):
    path = tmp_path / "own.txt"
    path.write_text("tick tock\n" * 40)
    text = own_text(path)
    write = cache._write

    def write_and_change(vocabulary, source, target):
        path.write_text("tock tick\n" * 40)
        return write(vocabulary, source, target)

    monkeypatch.setattr(cache, "_write", write_and_change)
    with pytest.raises(CorpusError, match=r"own\.txt: changed while it was read; leave it alone"):
        encode_splits(text, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_at_once(tmp_path):
    """Races of each kind of tokens: over a cache that is missing, and over one that is damaged."""
    racer = """
import sys, time
from pathlib import Path
from seqdni.corpora import Characters, Subwords, Text, Words, encode_splits
cache_dir, lane = Path(sys.argv[1]), sys.argv[2]
for k in range(21):
    Path(sys.argv[1] + f"-{k}-{lane}").touch()
    deadline = time.monotonic() + 40
    while not all(Path(sys.argv[1] + f"-{k}-{other}").exists() for other in "ab"):
        assert time.monotonic() < deadline, "the other process is gone"
    text = Text("greeting", *[f"{part}{k}" for part in sys.argv[3:]])
    tokens = (Characters(), Words(), Subwords(280))[k % 3]
    encoded = encode_splits(text, tokens, cache_dir)
    for split in ("train", "valid", "test") if k % 3 != 1 else ("train",):  # words: <unk>
        assert encoded.vocabulary.decode(getattr(encoded, split)) == getattr(text, split)
"""
    cache_dir = tmp_path / "cache"
    splits = [TEXT.train, TEXT.valid, TEXT.test]
    for k in range(9):
        text = Text("greeting", *[f"{part}{k}" for part in splits])
        encode_splits(text, KINDS[k % 3], cache_dir)
    for folder in cache_dir.iterdir():
        cut(folder / "train.bin")
    racers = [
        subprocess.Popen([sys.executable, "-c", racer, str(cache_dir), lane, *splits], cwd=ROOT)
        for lane in "ab"
    ]
    assert [process.wait(timeout=120) for process in racers] == [0, 0]
    assert len(list(cache_dir.iterdir())) == 21  # nothing is left beside the caches


def test_default_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "own"))
    for variable, place in [
        ("SEQDNI_CACHE", "own"),
        ("XDG_CACHE_HOME", "xdg/seqdni"),
        (None, "home/.cache/seqdni"),
    ]:
        encoded = encode_splits(TEXT)
        assert Path(encoded.train.filename).parents[1] == tmp_path / place
        if variable:
            monkeypatch.delenv(variable)
