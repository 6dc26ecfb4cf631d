import sys
from pathlib import Path

import pytest

from corpora import CorpusError, file_text, ptb_text, pydoc_text


@pytest.fixture
def damaged_ptb(ptb_dir, tmp_path):
    """A copy of the real folder, to damage."""
    for path in ptb_dir.glob("ptb.*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_ptb_counts(ptb_dir):
    text = ptb_text(ptb_dir)
    assert (len(text.train), len(text.valid), len(text.test)) == (5_017_482, 393_042, 442_423)
    assert text.train.count("\n") == 42_068
    assert len(set(text.train + text.valid + text.test)) == 50


def test_ptb_characters_are_words_joined_by_underscores(ptb_dir):
    text = ptb_text(str(ptb_dir))
    second_line = (ptb_dir / "ptb.train.txt").read_text().splitlines()[1]
    assert text.train.split("\n")[1] == "_".join(second_line.split())
    assert text.train.split("\n")[1].startswith("pierre_<unk>_N_years_old_")
    assert " " not in text.train


def test_ptb_with_windows_line_ends_is_the_same(damaged_ptb, ptb_dir):
    path = damaged_ptb / "ptb.valid.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert ptb_text(damaged_ptb) == ptb_text(ptb_dir)


def test_ptb_file_missing(damaged_ptb):
    (damaged_ptb / "ptb.valid.txt").unlink()
    with pytest.raises(CorpusError, match=r"ptb\.valid\.txt: No such file.*--data-dir"):
        ptb_text(damaged_ptb)


def test_ptb_file_truncated(damaged_ptb):
    path = damaged_ptb / "ptb.train.txt"
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(CorpusError, match=r"ptb\.train\.txt: \d+ lines, expected 42068; .*Mikolov"):
        ptb_text(damaged_ptb)


def test_ptb_character_lost(damaged_ptb):
    path = damaged_ptb / "ptb.test.txt"
    path.write_text(path.read_text().replace("the", "te", 1))
    with pytest.raises(CorpusError, match=r"ptb\.test\.txt: 442422 characters, expected 442423"):
        ptb_text(damaged_ptb)


def test_ptb_strange_symbol(damaged_ptb):
    path = damaged_ptb / "ptb.test.txt"
    path.write_text(path.read_text().replace("the", "thE", 1))
    with pytest.raises(CorpusError, match="51 symbol types, expected 50"):
        ptb_text(damaged_ptb)


def test_ptb_folder_missing_or_a_file(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere: no such folder; .*simple-examples"):
        ptb_text(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CorpusError, match="file: not a folder"):
        ptb_text(file)


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


def test_file_is_taken_as_it_is(tmp_path):
    content = "one\r\ntwo\rthree\n\ufeffé😀 " * 20
    path = tmp_path / "own.txt"
    path.write_bytes(content.encode())
    text = file_text(path, valid_fraction=0.25, test_fraction=0.1)
    assert text.train + text.valid + text.test == content
    assert (len(text.valid), len(text.test)) == (len(content) // 4, len(content) // 10)
    assert text.name == "own.txt"


def test_fraction_0_makes_no_split(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("some text")
    assert file_text(path, 0.0, 0.0) == ("own.txt", "some text", None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"own\.txt: empty"),
        (b" \n\t ", r"own\.txt: only white space"),
        (b"abc\xff", r"own\.txt: byte 3 is not UTF-8"),
        ("é".encode("utf-16"), r"own\.txt: byte 0 is not UTF-8"),
        (b"thirty characters or so of text", r"31 characters leave 1 for valid, .* least 2"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        file_text(path)
    assert "\n" not in str(caught.value)


def test_file_missing_or_a_folder(tmp_path):
    with pytest.raises(CorpusError, match=r"nothing\.txt: No such file or directory; give"):
        file_text(tmp_path / "nothing.txt")
    with pytest.raises(CorpusError, match=f"{tmp_path.name}: Is a directory; give"):
        file_text(tmp_path)


def test_file_unreadable(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read what chmod forbids
    with pytest.raises(CorpusError, match=r"own\.txt: Permission denied"):
        file_text(tmp_path / "own.txt")


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_bad_fractions(tmp_path, fractions):
    with pytest.raises(ValueError, match="expected both >= 0 and their sum < 1"):
        file_text(tmp_path / "own.txt", *fractions)
