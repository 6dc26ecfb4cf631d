"""A run's folder from a stranger: links, damaged and malicious checkpoints, two processes."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import TINY, assert_same, rows_of

from seqdni.recipes.checkpoint import Damaged, checkpoint_bytes, read_checkpoint
from seqdni.recipes.cli import main
from seqdni.recipes.lock import lock

CASE = Path(__file__).parents[2].parent / "shared/cases/bitflip-readout-last.pt"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of copy that has ended, not to be changed."""
    out = tmp_path_factory.mktemp("made") / "run"
    words = ["--threshold", "1.4", "--updates", "20", *TINY]
    assert main(["run", "copy", *words, "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of it, and the current folder beside it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, "run"))


def refused(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("seqdni: error: ")
    assert error.count("\n") == 1
    assert "weights_only" not in error
    return error


RESUME = ("run", "--resume", "run", "--updates", "40")


# --- links: nothing outside the folder is written ------------------------------------------------


@pytest.mark.parametrize("name", [".last.pt.part", ".config.yaml.part", ".metrics.jsonl.part"])
def test_what_was_planted_under_the_old_temporary_names_is_left_alone(folder, name):
    victim = Path("victim")
    victim.write_text("precious")
    (folder / name).symlink_to(victim.absolute())
    assert main(list(RESUME)) == 0
    assert victim.read_text() == "precious"
    assert not (folder / name).is_symlink()


LINKED = ["metrics.jsonl", "last.pt", "config.yaml", ".lock"]


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("target", ["there", "missing"])
def test_a_link_in_place_of_a_file_is_refused(folder, name, target, capsys):
    victim = Path("victim").absolute()
    (folder / name).unlink(missing_ok=True)
    if target == "there":
        shutil.copy(Path(folder, "result.json"), victim)
    (folder / name).symlink_to(victim)
    before = victim.read_bytes() if victim.exists() else None
    assert "is a link" in refused(capsys, *RESUME)
    assert (victim.read_bytes() if victim.exists() else None) == before


@pytest.mark.parametrize("name", ["result.json", "horizon.json", "horizon.png"])
def test_a_link_in_place_of_a_result_is_replaced(folder, name):
    victim = Path("victim").absolute()
    victim.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)
    assert main(list(RESUME)) == 0
    assert main(["horizon", "run", "--length", "3"]) == 0
    assert victim.read_text() == "precious"
    assert (folder / name).is_file()
    assert not (folder / name).is_symlink()


def test_a_hard_link_is_not_written_through(folder, capsys):
    victim = Path("victim")
    victim.write_text("{}\n")
    (folder / "metrics.jsonl").unlink()
    os.link(victim, folder / "metrics.jsonl")
    assert main(list(RESUME)) == 0  # the file is made anew
    assert victim.read_text() == "{}\n"
    (folder / ".lock").unlink()
    os.link(victim, folder / ".lock")
    assert "has a second name elsewhere" in refused(capsys, *RESUME[:-1], "60")
    assert victim.read_text() == "{}\n"


def test_a_folder_that_is_a_link_is_not_exported_to(folder, capsys):
    Path("outside").mkdir()
    (folder / "export").symlink_to(Path("outside").absolute())
    assert "export is a link" in refused(capsys, "export", "run")
    assert not list(Path("outside").iterdir())


def test_a_picture_is_not_drawn_through_a_link_or_into_another_folder(folder):
    victim = Path("victim")
    victim.write_text("precious")
    Path("length-by-updates.png").symlink_to(victim.absolute())
    rows = [{**row, "../escaped": 1.0} for row in rows_of(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["plot", "run"]) == 0
    assert victim.read_text() == "precious"
    assert main(["plot", "run", "--metric", "../escaped"]) == 1
    assert not list(Path("..").glob("escaped*"))


@pytest.mark.parametrize("name", ["last.pt", "config.yaml", "metrics.jsonl"])
def test_a_pipe_does_not_make_a_command_wait(folder, name, capsys):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "is no ordinary file" in refused(capsys, *RESUME)


def test_what_a_killed_process_left_is_cleared_away(folder):
    (folder / ".last.pt.0123456789abcdef.part").write_bytes(b"half")
    assert main(list(RESUME)) == 0
    assert not list(folder.glob(".*part"))


def test_files_have_the_mode_that_umask_says(folder):
    before = os.umask(0o027)
    try:
        assert main(["export", "run"]) == 0
    finally:
        os.umask(before)
    for path in (folder / "export").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, path


# --- damaged checkpoints --------------------------------------------------------------------------


def flipped(data, number):
    """One bit the other way round."""
    changed = bytearray(data)
    changed[number // 8] ^= 1 << number % 8
    return changed


def test_of_200_flipped_bits_200_are_noticed(made):
    data = (made / "last.pt").read_bytes()
    bits = random.Random(0).sample(range(8 * len(data)), 200)
    for number in bits:
        with pytest.raises(Damaged):
            read_checkpoint(flipped(data, number))
    assert isinstance(read_checkpoint(data), dict)


def test_bits_of_the_digest_itself_are_noticed(made):
    data = (made / "last.pt").read_bytes()
    for number in range(8 * (len(data) - 93), 8 * len(data)):  # the archive's end, and the digest
        with pytest.raises(Damaged):
            read_checkpoint(flipped(data, number))


def test_of_200_bits_of_the_numbers_all_are_noticed_without_a_digest(made, tmp_path):
    """What plain torch.save writes has the checksums of the archive alone."""
    path = tmp_path / "plain.pt"
    torch.save(torch.load(made / "last.pt", weights_only=True), path)
    data, chooser = path.read_bytes(), random.Random(0)
    with zipfile.ZipFile(path) as archive:
        parts = [part for part in archive.infolist() if part.file_size]
    for _ in range(200):
        part = chooser.choice(parts)
        # name and extra field of the local header, which differ from those of the directory
        name, extra = (
            int.from_bytes(data[part.header_offset + at : part.header_offset + at + 2], "little")
            for at in (26, 28)
        )
        start = part.header_offset + 30 + name + extra
        number = 8 * start + chooser.randrange(8 * part.file_size)
        with pytest.raises(Damaged):
            read_checkpoint(flipped(data, number))


@pytest.mark.parametrize("command", ["eval", "sample", "export", "horizon", "resume"])
def test_every_command_notices_a_flipped_bit(folder, command, capsys):
    data = (folder / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(flipped(data, 4 * len(data)))
    words = RESUME if command == "resume" else (command, "run")
    error = refused(capsys, *words)
    assert "run/last.pt cannot be read as a checkpoint: its content does not match" in error


def test_a_flipped_bit_of_the_readout(folder, capsys):
    """`eval` printed inf for this one and had the exit status 0."""
    if not CASE.exists():
        pytest.skip("needs the case")
    shutil.copy(CASE, folder / "last.pt")
    assert "does not match its checksums" in refused(capsys, "eval", "run")


def test_scripts_read_a_checkpoint_with_torch_alone(made):
    saved = torch.load(made / "last.pt", weights_only=True)
    assert set(saved["trainer"]["model"]) >= {"readout.weight", "readout.bias"}
    assert_same(saved, read_checkpoint((made / "last.pt").read_bytes()))


def put(folder, where, value):
    """Change a value of last.pt, as somebody would who edits it."""
    saved = torch.load(folder / "last.pt", weights_only=True)
    part = saved
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value(part[where[-1]]) if callable(value) else value
    (folder / "last.pt").write_bytes(checkpoint_bytes(saved))


WEIGHT = ("trainer", "model", "readout.weight")
EDITED = {
    "integers for weights": (WEIGHT, lambda w: w.round().int(), "torch.int32"),
    "doubles for weights": (WEIGHT, lambda w: w.double(), "torch.float64"),
    "complex weights": (WEIGHT, lambda w: w.cfloat(), "complex numbers"),
    "a weight that is NaN": (WEIGHT, lambda w: w.fill_(float("nan")), "NaN or infinite"),
    "an infinite weight": (WEIGHT, lambda w: w.fill_(float("inf")), "NaN or infinite"),
    "a number for a weight": (WEIGHT, 3.0, "readout.weight is float"),
    "a transposed weight": (WEIGHT, lambda w: w.T.contiguous(), "size mismatch"),
    "a weight in rows of rows": (WEIGHT, lambda w: w[None], "last.pt does not fit"),
    "a weight without numbers": (WEIGHT, lambda w: w[:1, :1].expand(9**9, 1), "without its num"),
    "a sparse weight": (WEIGHT, lambda w: w.to_sparse(), "sparse or quantised"),
    "a weight on no device": (WEIGHT, lambda w: w.to("meta"), "last.pt"),
    "no weight": (("trainer", "model"), {}, "last.pt does not fit"),
    "a list for the model": (("trainer", "model"), [], "last.pt does not fit"),
}
ONLY_RESUMED = {
    "seconds": (("seconds",), "ten", "seconds is 'ten', expected a number"),
    "negative seconds": (("seconds",), -1.0, "seconds is -1.0"),
    "infinite seconds": (("seconds",), float("inf"), "infinite"),
    "NaN seconds": (("seconds",), float("nan"), "seconds is nan"),
    "no reported": (("reported",), None, "reported is None"),
    "updates of text": (("trainer", "steps", "updates"), "a", "updates is 'a'"),
    "negative updates": (("trainer", "steps", "updates"), -1, "updates is -1"),
    "huge updates": (("trainer", "steps", "updates"), 1 << 80, "expected a whole number"),
    "no counts": (("trainer", "steps"), {}, "steps has no "),
    "a list for the counts": (("trainer", "steps"), [1, 2], "expected parts by name"),
    "true for a count": (("trainer", "steps", "chunks"), True, "chunks is True"),
    "an older format": (("trainer", "format"), 1, "has format 1, and this version of seqdni reads"),
    "carry of other rows": (("trainer", "carry"), [torch.zeros(1, 9, 16)] * 2, "does not fit"),
    "carry of integers": (("trainer", "carry"), [torch.zeros(1, 4, 16).int()] * 2, "does not fit"),
    "carry of text": (("trainer", "carry"), "none", "does not fit"),
    "optimiser of text": (("trainer", "optimizer"), "none", "expected parts by name"),
    "moments of another shape": (
        ("trainer", "optimizer", "state", 0, "exp_avg"),
        torch.zeros(3),
        "exp_avg is of shape [3]",
    ),
    "one moment": (
        ("trainer", "optimizer", "state", 0, "exp_avg"),
        torch.zeros(()),
        "expected one a weight",
    ),
    "a step of text": (("trainer", "optimizer", "state", 0, "step"), "x", "last.pt does not fit"),
    "a rate of text": (("trainer", "optimizer", "param_groups", 0, "lr"), "fast", "lr is 'fast'"),
    "a negative rate": (("trainer", "optimizer", "param_groups", 0, "lr"), -1.0, "lr is -1.0"),
    "difficulty of text": (("stream", "difficulty"), "hard", "stream.difficulty is 'hard'"),
    "negative difficulty": (("stream", "difficulty"), [-1, 1], "stream.difficulty[0] is -1"),
    "a difficulty beyond memory": (("stream", "difficulty"), [10**15, 1], "last.pt does not fit"),
    "position of text": (("stream", "player", "position"), "x", "position is 'x'"),
    "generator of zeros": (("stream", "player", "generator"), torch.zeros(3), "does not fit"),
    "no progress": (("progress",), {}, "progress has no episodes"),
    "episodes of text": (("progress", "episodes"), "many", "episodes is 'many'"),
    "another recipe": (("recipe",), "lm", "it is of a run of lm"),
    "random state of text": (("rng",), "dice", "does not fit"),
}


@pytest.mark.parametrize("case", EDITED)
def test_edited_weights_are_refused_on_every_path(folder, case, capsys):
    where, value, message = EDITED[case]
    put(folder, where, value)
    for words in (("eval", "run"), ("sample", "run"), RESUME):
        assert message in refused(capsys, *words)


@pytest.mark.parametrize("case", ONLY_RESUMED)
def test_edited_values_do_not_resume(folder, case, capsys):
    where, value, message = ONLY_RESUMED[case]
    put(folder, where, value)
    assert message in refused(capsys, *RESUME)


@pytest.mark.parametrize(
    "line", [b"{half a row\n", b"\xff\xfe\n", b"[" * 9000 + b"\n", b"null\n", b'{"tokens": "x"}\n']
)
def test_a_damaged_row_of_the_metrics_does_not_stop_a_resume(folder, line, capsys):
    rows = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(line + rows)
    assert main(list(RESUME)) == 0
    assert "left out 1 damaged" in capsys.readouterr().err
    assert [row["update"] for row in rows_of(folder)] == [10, 20, 30, 40]


# --- code ----------------------------------------------------------------------------------------


class Calls:
    """Unpickled, it would call a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


MARK = "executed"
PICKLES = {
    "system": Calls(os.system, f"touch {MARK}"),
    "popen": Calls(os.popen, f"touch {MARK}"),
    "run": Calls(subprocess.run, ["touch", MARK]),
    "check_output": Calls(subprocess.check_output, ["touch", MARK]),
    "Popen": Calls(subprocess.Popen, ["touch", MARK]),
    "eval": Calls(eval, f"open({MARK!r}, 'w')"),
    "exec": Calls(exec, f"open({MARK!r}, 'w')"),
    "open": Calls(builtins.open, MARK, "w"),
    "mkdir": Calls(os.mkdir, MARK),
    "touch": Calls(Path.touch, Path(MARK)),
    "import": Calls(__import__, "antigravity"),
    "partial": Calls(partial, os.mkdir, MARK),
    "getattr": Calls(getattr, "text", "upper"),
    "torch.load": Calls(torch.load, "run/last.pt"),
    "in a dictionary": {"trainer": {"model": Calls(os.mkdir, MARK)}, "stream": {}, "progress": {}},
}


@pytest.mark.parametrize("form", ["archive", "bare"])
@pytest.mark.parametrize("name", PICKLES)
def test_no_pickle_is_executed(folder, name, form, capsys):
    if form == "archive":
        (folder / "last.pt").write_bytes(checkpoint_bytes(PICKLES[name]))
    else:
        (folder / "last.pt").write_bytes(pickle.dumps(PICKLES[name]))
    for words in (("eval", "run"), ("sample", "run"), ("horizon", "run"), ("export", "run")):
        assert "cannot be read as a checkpoint" in refused(capsys, *words)
    assert "cannot be read as a checkpoint" in refused(capsys, *RESUME)
    assert not Path(MARK).exists()


def zipped(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


ARCHIVES = {
    "of code": ({"archive/constants.pkl": b"", "archive/code/m.py": b"import os"}, {}),
    "out of its folder": ({"../../escaped": b"x", "archive/data.pkl": b"x"}, {}),
    "a bomb": ({"archive/data.pkl": bytes(1 << 26)}, {"compression": zipfile.ZIP_DEFLATED}),
    "empty": ({}, {}),
    "of a pickle": ({"archive/data.pkl": pickle.dumps(Calls(os.mkdir, MARK))}, {}),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_no_archive_is_unpacked(folder, name, capsys):
    parts, how = ARCHIVES[name]
    zipped(folder / "last.pt", parts, **how)
    assert "cannot be read as a checkpoint" in refused(capsys, "eval", "run")
    assert not list(Path().glob("**/escaped"))
    assert not Path(MARK).exists()


@pytest.mark.parametrize("value", [{1, 2}, Counter("aab").keys(), b"bytes", 1j], ids=str)
def test_only_plain_values_are_read(folder, value, capsys):
    try:
        (folder / "last.pt").write_bytes(checkpoint_bytes({"trainer": {"x": value}}))
    except TypeError:
        pytest.skip("cannot be saved")
    assert "last.pt" in refused(capsys, "eval", "run")


def test_lists_within_lists_end(folder, capsys):
    shared: list = []
    for _ in range(60):
        shared = [shared, shared]  # 2 ** 60 lists to whoever follows each
    put(folder, ("progress", "history"), shared)
    assert main(["eval", "run"]) in (0, 1)


# --- two processes --------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_the_first_ones_number(folder, capsys):
    taken = lock(folder)
    try:
        assert f"run is in use by process {os.getpid()}" in refused(capsys, *RESUME)
        assert main(["eval", "run"]) == 0  # reading is free
    finally:
        os.close(taken)
    assert main(list(RESUME)) == 0


def test_the_lock_of_a_process_that_is_gone_is_taken_over(folder):
    code = "import sys; from pathlib import Path; from seqdni.recipes.lock import lock\n"
    code += "lock(Path('run')); print('locked', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "locked\n"
    assert (folder / ".lock").read_text() == f"{child.pid}\n"
    assert main(list(RESUME)) == 1
    child.kill()
    child.communicate()
    assert (folder / ".lock").read_text() == f"{child.pid}\n"
    assert main(list(RESUME)) == 0


def test_the_lock_is_given_up_however_a_run_ends(folder, capsys):
    put(folder, ("seconds",), "ten")
    refused(capsys, *RESUME)
    os.close(lock(folder))
