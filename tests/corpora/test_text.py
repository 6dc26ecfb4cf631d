import sys

import pytest

from seqdni.corpora import CorpusError, Stretch, Text, blocks, own_text, pydoc_text


def read(text: Text) -> dict[str, str]:
    return {split: "".join(blocks(part)) for split, part in text.splits().items()}


def test_pydoc_is_the_topics_in_order():
    from pydoc_data.topics import topics

    text = pydoc_text()
    whole = "\n".join(topics[key] for key in sorted(topics))
    assert text.train + text.valid + text.test == whole
    assert len(text.valid) == len(text.test) == int(0.05 * len(whole))


def test_pydoc_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusError, match=r"no pydoc_data\.topics; give a text file"):
        pydoc_text()


def test_a_file_with_its_line_ends_made_newlines(tmp_path):
    content = "one\r\ntwo\rthree\n\ufeffé😀 \t" * 20
    path = tmp_path / "own.txt"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    text = own_text(path, valid_fraction=0.25, test_fraction=0.1)
    splits = read(text)
    assert "".join(splits.values()) == "one\ntwo\nthree\n\ufeffé😀 \t" * 20
    size = len(content.encode())
    assert abs(text.valid.size - size // 4) < 25  # a line is 25 bytes
    assert abs(text.test.size - size // 10) < 25
    assert splits["valid"].startswith(("two", "three", "\ufeff"))  # a line's beginning
    assert text.name == "own.txt"


def test_fraction_0_makes_no_split(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("some text")
    text = own_text(path, 0.0, 0.0)
    assert read(text) == {"train": "some text"}
    assert (text.valid, text.test) == (None, None)
    assert list(own_text(path, 0.0, 0.3).splits()) == ["train", "test"]
    assert list(own_text(path, 0.3, 0.0).splits()) == ["train", "valid"]


@pytest.mark.parametrize("name", ["valid.txt", "validation.txt", "dev.TXT"])
def test_folder_with_splits(tmp_path, name):
    for file in ("train.txt", name, "test.txt"):
        (tmp_path / file).write_text(f"{file} text")
    for file in ("notes.txt", "more/devel.txt", "readme.md", ".hidden", ".git/config.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("not read")
    text = own_text(tmp_path)
    expected = {"train": "train.txt text", "valid": f"{name} text", "test": "test.txt text"}
    assert read(text) == expected
    assert text.left_out == ("more/devel.txt", "notes.txt", "readme.md")


def test_two_files_for_a_split(tmp_path):
    for file in ("dev.txt", "validation.txt"):
        (tmp_path / file).write_text("some text " * 10)
    assert own_text(tmp_path).left_out == ()  # one text in two files
    (tmp_path / "train.txt").write_text("some text " * 10)
    with pytest.raises(CorpusError, match=r"dev\.txt and validation\.txt are for the same split"):
        own_text(tmp_path)


def test_folder_of_files_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "a.TXT", "b/z.Txt", "b/skipped.md"):
        (tmp_path / name).write_text(f"{name} " * 10)
    text = own_text(tmp_path)
    expected = "\n".join(f"{name} " * 10 for name in ("a.TXT", "b/z.Txt", "c.txt"))
    assert "".join(read(text).values()) == expected
    assert isinstance(text.train, Stretch)
    assert [piece.path.name for piece in text.train.pieces] == ["a.TXT", "z.Txt", "c.txt"]
    assert text.left_out == ("b/skipped.md",)


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.txt").write_text("some text " * 10)
    assert own_text("~/own.txt").name == "own.txt"


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_bad_fractions(tmp_path, fractions):
    with pytest.raises(ValueError, match="expected both >= 0 and their sum < 1"):
        own_text(tmp_path / "own.txt", *fractions)
