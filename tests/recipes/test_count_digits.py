"""The recipe count-digits: its ways of training, what they write, and that both networks learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from runs import assert_same, result_of, rows_of, run, without_times
from tiny_mnist import accept_tiny_mnist, write_tiny_mnist

from seqdni.corpora import read_mnist
from seqdni.recipes.cli import main
from seqdni.recipes.count_digits.recipe import blind_errors, errors

TINY = ["--hidden", "8", "--encoder", "8", "--batch", "4", "--threads", "1", "--chunk-len", "3"]
WAYS = ["joint", "dni", "no-feedback"]


@pytest.fixture(autouse=True)
def tiny_mnist_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accept_tiny_mnist(monkeypatch)
    monkeypatch.setattr("seqdni.recipes.count_digits.recipe.FINAL", 2)
    monkeypatch.setattr("seqdni.recipes.count_digits.recipe.CURVE", 1)
    write_tiny_mnist(Path("mnist"))


def count_digits(*words):
    run("count-digits", "--data-dir", "mnist", *TINY, *words)


def test_one_command_runs_the_three_ways(capsys):
    words = ["--log-every", 9, "--evaluate-every", 18, "--max-tokens", 4 * 54]
    count_digits("--trainer", "all", "--out", "out", *words)
    for way in WAYS:
        folder = Path("out", way)
        result, rows = result_of(folder), rows_of(folder)
        assert (result["trainer"], result["tokens"], result["steps"]) == (way, 216, 54)
        assert (result["updates"], result["updates_b"]) == (6 if way == "joint" else 18, 6)
        seen = [
            [row["tokens"] // 4, row["error_a"], row["error_b"]] for row in rows if "error_a" in row
        ]
        assert result["curve"] == seen
        assert [step for step, *_ in seen] == [18, 36, 54]
        assert all("note" not in row for row in rows)
        for name in ("error_a", "error_b", "test_error_a", "majority_error_a"):
            assert 0 <= result[name] <= 1
    capsys.readouterr()
    for metric in ("error_a", "error_b"):
        folders = [f"out/{way}" for way in WAYS]
        assert main(["plot", *folders, "--metric", metric, "--against", "tokens"]) == 0
        assert all(f"trainer={way}" in capsys.readouterr().out for way in WAYS[:1])
        assert Path(f"{metric}-by-tokens.png").exists()
    assert main(["eval", "out/dni"]) == 0
    assert f"{result_of(Path('out/dni'))['error_b']:.4f}" in capsys.readouterr().out
    assert main(["sample", "out/dni", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines] == ["digits", "A, odd", "B, 3s "]
    assert main(["export", "out/dni"]) == 0


@pytest.mark.parametrize("synthesizer", ["mlp", "whitened", "linear"])
def test_every_synthesizer_runs(synthesizer):
    count_digits("--synthesizer", synthesizer, "--max-tokens", 4 * 36, "--out", "out")
    assert result_of(Path("out"))["synth_parameters"] > 0


@pytest.mark.parametrize(("condition", "features"), [("true", 8 + 4 + 1), ("false", 8 + 1)])
def test_the_synthesizer_from_b_to_a_reads_the_3s_or_not(condition, features):
    count_digits("--condition", condition, "--max-tokens", 36, "--out", "out")
    _, of_messages, *_ = torch.load("out/last.pt", weights_only=True)["trainer"]["synthetic"]
    assert of_messages["boundary"]["synthesizer.weight"].shape == (features, 8)


def test_the_small_digits_are_the_default():
    pytest.importorskip("sklearn")
    run("count-digits", *TINY, "--max-tokens", 4 * 36, "--out", "out")
    assert result_of(Path("out"))["steps"] == 36


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_as_one_that_never_stopped(way):
    words = ["--trainer", way, "--log-every", 3]
    words += [] if way == "joint" else ["--grad-scale", 0.1]
    count_digits(*words, "--max-tokens", 4 * 60, "--out", "whole")
    count_digits(*words, "--max-tokens", 4 * 33, "--out", "parts")
    run("count-digits", "--resume", "parts", "--max-tokens", 4 * 60)
    saved = [torch.load(f"{name}/last.pt", weights_only=True) for name in ("whole", "parts")]
    a, b = (without_times(each) for each in saved)
    assert_same(a["trainer"], b["trainer"])
    assert_same(a["stream"], b["stream"])


MISTAKES = {
    "--chunk-len 1": "--chunk-len is 1, expected at least 2",
    "--trainer joint --grad-scale 0.1": "--grad-scale has no effect here",
    "--trainer no-feedback --message-scale 0.1": "--message-scale has no effect here",
    "--trainer joint --condition false": "--condition has no effect here",
    "--synthesizer mlp --ridge 0.1": "--ridge has no effect here",
    "--data-dir nowhere": "nowhere: no such folder",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_clear_line(words, capsys):
    assert main(["run", "count-digits", *words.split()]) == 1
    error = capsys.readouterr().err
    assert MISTAKES[words] in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_horizon_is_for_one_network(capsys):
    count_digits("--max-tokens", 36, "--out", "out")
    assert main(["horizon", "out"]) == 1
    assert "count-digits has two" in capsys.readouterr().err


class Silent(torch.nn.Module):
    """Always answers with the same two counts."""

    def __init__(self, odd, threes):
        super().__init__()
        self.odd, self.threes = odd, threes
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, carry):
        steps, rows = inputs.shape[:2]
        a, b = torch.zeros(steps, rows, 4), torch.zeros(1, rows, 10)
        a[..., self.odd], b[..., self.threes] = 1, 1
        return [a, b], None


def test_a_constant_answer_has_the_majority_s_error():
    images = read_mnist("mnist").valid
    expected = blind_errors(images, 3)
    counts = torch.distributions.Binomial(9, torch.tensor(0.1)).log_prob(torch.arange(10)).exp()
    assert expected["majority_error_b"] == pytest.approx(1 - counts.max().item(), abs=1e-6)
    assert expected["majority_error_a"] == pytest.approx(1 - 3 / 8)
    found = errors(Silent(1, int(counts.argmax())), images, 3, 40)
    assert found["error_a"] == pytest.approx(expected["majority_error_a"], abs=0.02)
    assert found["error_b"] == pytest.approx(expected["majority_error_b"], abs=0.02)


def test_the_three_ways_take_options_of_one_and_are_continued_by_the_same_command(capsys):
    words = ["--trainer", "all", "--condition", "false", "--max-tokens", 4 * 36, "--out", "out"]
    count_digits(*words)
    saved = {way: yaml.safe_load(Path("out", way, "config.yaml").read_text()) for way in WAYS}
    assert {way: saved[way]["condition"] for way in WAYS} == {
        "joint": True,
        "dni": False,
        "no-feedback": True,
    }
    before = Path("out/joint/result.json").stat().st_mtime_ns
    Path("out/dni/result.json").unlink()
    shutil.rmtree("out/no-feedback")
    count_digits(*words)
    assert all(result_of(Path("out", way))["tokens"] == 144 for way in WAYS)
    assert Path("out/joint/result.json").stat().st_mtime_ns == before
    words[3] = "true"
    assert main(["run", "count-digits", *map(str, words), "--control", "nobody"]) == 1


def test_options_without_an_effect_are_refused(capsys):
    for words in (["no-feedback", "--control", "shuffled"], ["joint", "--condition", "false"]):
        assert main(["run", "count-digits", "--trainer", *words]) == 1
        assert f"{words[1]} has no effect here" in capsys.readouterr().err
