import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corpora import CorpusError, Text, encode_splits, ptb_text
from corpora.cache import _build, _digest

TEXT = Text("greeting", "hello, world", "hole", "red")


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


def forbid_building(monkeypatch) -> None:
    def build(text, folder):
        raise AssertionError("built again")

    monkeypatch.setattr("corpora.cache._build", build)


def test_first_and_second_time(tmp_path, monkeypatch):
    assert_right(encode_splits(TEXT, tmp_path))
    forbid_building(monkeypatch)
    assert_right(encode_splits(TEXT, tmp_path))
    assert encode_splits(TEXT._replace(name="other"), tmp_path).name == "other"


def test_missing_splits(tmp_path):
    encoded = encode_splits(TEXT._replace(valid=None, test=None), tmp_path)
    assert encoded.valid is None
    assert encoded.test is None
    assert encoded.vocabulary.decode(encoded.train) == TEXT.train


def test_the_digest_tells_splits_apart():
    texts = [
        Text("", "ab", "c", "d"),
        Text("", "a", "bc", "d"),
        Text("", "ab", "cd", None),
        Text("", "ab", None, "cd"),
        Text("", "abcd", None, None),
        Text("", "ab valid 1 c", None, "d"),
    ]
    assert len({_digest(text) for text in texts}) == len(texts)
    assert _digest(TEXT) == _digest(TEXT._replace(name="other"))


def test_ptb(ptb_dir, tmp_path):
    text = ptb_text(ptb_dir)
    encoded = encode_splits(text, tmp_path)
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


@pytest.mark.parametrize("damage", [remove, cut, clear, flip])
@pytest.mark.parametrize("name", ["train.npy", "test.npy", "meta.json"])
def test_damage_is_repaired(tmp_path, monkeypatch, damage, name):
    encode_splits(TEXT, tmp_path)
    damage(folder_of(tmp_path) / name)
    assert_right(encode_splits(TEXT, tmp_path))
    assert folder_of(tmp_path)  # nothing is left beside it
    forbid_building(monkeypatch)
    assert_right(encode_splits(TEXT, tmp_path))


def test_wrong_split_length_is_repaired(tmp_path):
    encode_splits(TEXT, tmp_path)
    np.save(folder_of(tmp_path) / "valid.npy", np.zeros(3, dtype=np.uint8))
    assert_right(encode_splits(TEXT, tmp_path))


def test_meta_without_a_split_is_repaired(tmp_path):
    encode_splits(TEXT, tmp_path)
    (folder_of(tmp_path) / "meta.json").write_text(json.dumps({"symbols": "ab"}))
    assert_right(encode_splits(TEXT, tmp_path))


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("corpora.cache._sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encode_splits(TEXT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_is_not_taken_for_a_cache(tmp_path):
    killed = """
import os, sys
from corpora import cache, Text
cache._sync = lambda path: os._exit(9)
cache.encode_splits(Text("greeting", "hello, world", "hole", "red"), sys.argv[1])
"""
    run = subprocess.run([sys.executable, "-c", killed, tmp_path], cwd=Path(__file__).parents[2])
    assert run.returncode == 9
    assert folder_of(tmp_path).name.startswith(".")
    assert_right(encode_splits(TEXT, tmp_path))


def test_another_process_finished_first(tmp_path, monkeypatch):
    """The cache appears while ours is being built: theirs stays, ours goes."""
    folder = tmp_path / f"characters-{_digest(TEXT)}"

    def build_after_another(text, folder):
        _build(text, folder)
        before = (folder / "train.npy").stat().st_ino
        _build(text, folder)
        assert (folder / "train.npy").stat().st_ino == before

    monkeypatch.setattr("corpora.cache._build", build_after_another)
    assert_right(encode_splits(TEXT, tmp_path))
    assert folder_of(tmp_path) == folder


def test_the_damaged_cache_vanishes_while_ours_is_put(tmp_path, monkeypatch):
    """Another process is between moving the damaged cache away and putting its own."""
    encode_splits(TEXT, tmp_path)
    cut(folder_of(tmp_path) / "train.npy")
    rename = Path.rename

    def rename_late(path, target):
        try:
            return rename(path, target)
        except OSError:
            shutil.rmtree(target)
            monkeypatch.undo()
            raise

    monkeypatch.setattr(Path, "rename", rename_late)
    assert_right(encode_splits(TEXT, tmp_path))
    assert folder_of(tmp_path)


def test_two_processes_at_once(tmp_path):
    """Twenty races: over a cache that is missing, and over one that is damaged."""
    racer = """
import sys, time
from pathlib import Path
from corpora import Text, encode_splits
cache_dir, lane = Path(sys.argv[1]), sys.argv[2]
for k in range(20):
    Path(sys.argv[1] + f"-{k}-{lane}").touch()
    deadline = time.monotonic() + 20
    while not all(Path(sys.argv[1] + f"-{k}-{other}").exists() for other in "ab"):
        assert time.monotonic() < deadline, "the other process is gone"
    text = Text("greeting", *[f"{part}{k}" for part in sys.argv[3:]])
    encoded = encode_splits(text, cache_dir)
    for split in ("train", "valid", "test"):
        assert encoded.vocabulary.decode(getattr(encoded, split)) == getattr(text, split)
"""
    cache_dir = tmp_path / "cache"
    for k in range(10):
        encode_splits(Text("greeting", *[f"{part}{k}" for part in TEXT[1:]]), cache_dir)
    for folder in cache_dir.iterdir():
        cut(folder / "train.npy")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", racer, str(cache_dir), lane, *TEXT[1:]],
            cwd=Path(__file__).parents[2],
        )
        for lane in "ab"
    ]
    assert [process.wait(timeout=60) for process in racers] == [0, 0]
    assert len(list(cache_dir.iterdir())) == 20  # nothing is left beside the caches


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


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"cannot write the cache \(.*\); .*SEQDNI_CACHE"):
        encode_splits(TEXT, tmp_path / "file" / "below")


def test_empty_split(tmp_path):
    with pytest.raises(CorpusError, match="greeting: the valid split is empty"):
        encode_splits(TEXT._replace(valid=""), tmp_path)
