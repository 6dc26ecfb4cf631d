"""The recipe layers: its ways of training, what they write, and that the layers learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import assert_same, result_of, rows_of, run, without_times
from tiny_mnist import accept_tiny_mnist, write_tiny_mnist

from seqdni.corpora import read_mnist
from seqdni.recipes.cli import main
from seqdni.recipes.layers.net import build_net, build_trainer, errors
from seqdni.recipes.layers.options import WAYS, Options, prepare

TINY = ["--hidden", "16", "--hidden-layers", "2", "--batch", "8", "--threads", "1"]


@pytest.fixture(autouse=True)
def tiny_mnist_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accept_tiny_mnist(monkeypatch)
    write_tiny_mnist(Path("mnist"))


def layers(*words):
    run("layers", "--data-dir", "mnist", *TINY, *words)


def test_one_command_runs_all_ways(capsys):
    words = ["--synth-hidden", 8, "--input-hidden", 8, "--updates", 12, "--log-every", 4]
    layers("--trainer", "all", "--out", "out", *words, "--evaluate-every", 4)
    for way in WAYS:
        folder = Path("out", way)
        result, rows = result_of(folder), rows_of(folder)
        assert (result["trainer"], result["updates"], result["tokens"]) == (way, 12, 96)
        assert [row["update"] for row in rows] == [4, 8, 12]
        assert result["curve"] == [[r["update"], r["tokens"], r["held_out_error"]] for r in rows]
        cuts = {name for name in rows[-1] if name.startswith(("synth_loss_", "input_loss_"))}
        kinds = {"none": (), "backprop": (), "unlock": ("synth", "input")}.get(way, ("synth",))
        assert cuts == {f"{kind}_loss_{cut}" for kind in kinds for cut in range(2)}
        trained = {"backprop": [12], "none": [0, 0, 12]}.get(way, [12, 12, 12])
        assert result["updates_of_layers"] == trained
    printed = capsys.readouterr().out
    assert "seqdni plot out/* --metric held_out_error --against tokens" in printed
    folders = [f"out/{way}" for way in WAYS]
    for axis, end in (("tokens", "96"), ("epochs", "2.4")):
        assert main(["plot", *folders, "--metric", "held_out_error", "--against", axis]) == 0
        printed = capsys.readouterr().out
        assert "trainer=unlock" in printed
        assert printed.count(f"at {end} {axis}") == len(WAYS)
    assert main(["eval", "out/cdni"]) == 0
    assert f"{result_of(Path('out/cdni'))['test_error']:.4f}" in capsys.readouterr().out
    assert main(["sample", "out/cdni", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 30
    assert lines[-2].startswith("target  ")


@pytest.mark.parametrize("way", ["cdni", "unlock"])
def test_a_stopped_run_goes_on_bit_for_bit(way):
    words = ["--trainer", way, "--input-hidden", 8] if way == "unlock" else ["--trainer", way]
    words += ["--schedule", "constant", "--order", "random", "--update-probability", "0.5"]
    layers(*words, "--updates", 9, "--out", "whole")
    layers(*words, "--updates", 4, "--out", "parts")
    run("--resume", "parts", "--updates", 9)
    saved = [torch.load(f"{each}/last.pt", weights_only=True) for each in ("whole", "parts")]
    assert_same(*(without_times(each) for each in saved))
    assert result_of("whole")["test_error"] == result_of("parts")["test_error"]


def test_rates_fall_in_steps_and_the_end_of_such_a_run_cannot_change(capsys):
    layers("--synthesizer", "linear", "--updates", 10, "--out", "out", "--lr", 0.01)
    saved = torch.load("out/last.pt", weights_only=True)["trainer"]
    rates = [each["param_groups"][0]["lr"] for each in saved["optimizers"]]
    rates += [each["optimizer"]["param_groups"][0]["lr"] for each in saved["credit"]]
    assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 2)
    capsys.readouterr()
    assert main(["run", "--resume", "out", "--updates", "20"]) == 1
    assert "--schedule steps depends on when a run ends" in capsys.readouterr().err


@pytest.mark.parametrize("way", WAYS)
def test_a_convolutional_net_is_trained_in_each_way(way):
    words = ["--net", "cnn", "--channels", 2, "--trainer", way, "--batch", 8, "--updates", 3]
    if way in ("dni", "cdni"):
        words += ["--synthesizer", "conv", "--synth-hidden", 4]
    if way == "unlock":
        words += ["--input-hidden", 8]
    run("layers", "--data-dir", "mnist", "--threads", 1, *words, "--out", "out")
    assert 0 <= result_of("out")["test_error"] <= 1


def test_an_export_is_evaluated_and_started_from(capsys):
    layers("--trainer", "backprop", "--updates", 5, "--out", "out")
    assert main(["export", "out"]) == 0
    capsys.readouterr()
    assert main(["eval", "out/export", "--data-dir", "mnist"]) == 1  # an export has no images
    assert "is an export" in capsys.readouterr().err
    layers("--init-from", "out/export", "--updates", 5, "--out", "further")
    assert result_of("further")["trainer"] == "cdni"


def test_the_small_digits_are_learned_without_back_propagation_through_the_net():
    pytest.importorskip("sklearn")
    run("layers", "--threads", 1, "--epochs", 10, "--out", "out", "--hidden", 64)
    result = result_of("out")
    assert result["held_out_error"] < 0.06
    assert result["updates_of_layers"] == [180] * 4


@pytest.mark.parametrize("way", ["cdni", "dni", "unlock"])
def test_layers_in_threads_train_as_one_after_another_bit_for_bit(way):
    words = ["--trainer", way, "--updates", 23, "--log-every", 3, "--evaluate-every", 6]
    words += ["--synth-hidden", 8] if way == "dni" else []
    words += ["--input-hidden", 8] if way == "unlock" else []
    layers(*words, "--out", "one")
    layers(*words, "--apart", "threads", "--out", "apart")
    saved = [torch.load(f"{each}/last.pt", weights_only=True) for each in ("one", "apart")]
    assert_same(*(without_times(each) for each in saved))
    rows = [[{**row, "seconds": 0} for row in rows_of(each)] for each in ("one", "apart")]
    assert rows[0] == rows[1]


def test_a_run_goes_on_apart_and_staleness_changes_it(capsys):
    words = ["--schedule", "constant", "--updates"]
    layers(*words, 20, "--out", "whole")
    layers(*words, 8, "--apart", "threads", "--out", "parts")
    run("--resume", "parts", "--updates", 20, "--apart", "null")
    layers(*words, 20, "--apart", "threads", "--staleness", 3, "--out", "stale")
    whole, parts, stale = (
        torch.load(f"{each}/last.pt", weights_only=True)["trainer"]
        for each in ("whole", "parts", "stale")
    )
    assert_same(whole, parts)
    assert not torch.equal(whole["model"]["0.0.weight"], stale["model"]["0.0.weight"])
    assert main(["run", "--resume", "stale", "--updates", "30", "--apart", "null"]) == 1
    assert "this run has --staleness 3" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:a gradient that arrived at a boundary was not finite")
def test_a_gradient_that_is_not_finite_is_one_line_in_threads_too(capsys):
    words = ["--apart", "threads", "--lr", "1e30", "--synthesizer", "linear"]
    assert main(["run", "layers", "--data-dir", "mnist", *TINY, *words]) == 1
    assert "is no longer finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trainer none --forgetting 0.5", "--forgetting has no effect here"),
        ("--synthesizer linear --ridge 1", "--ridge has no effect here"),
        ("--trainer backprop --order random", "--order has no effect here"),
        ("--trainer dni --synthesizer critic", "reads the label; use it with --trainer cdni"),
        ("--synthesizer conv", "is for the maps of --net cnn"),
        ("--apart threads --order random", "--order does not go with --apart: each layer"),
        ("--apart threads --bound 2", "--bound does not go with --apart"),
        ("--apart threads --control shuffled", "--control shuffled does not go with --apart"),
        ("--apart threads --trainer backprop", "--apart has no effect here; it needs a --trainer"),
        ("--staleness 0", "--staleness has no effect here; it needs --apart threads"),
        ("--apart processes", "torchrun --nproc-per-node 4 $(which seqdni) run layers --apart"),
        ("--net cnn --hidden 3", "--hidden has no effect here"),
        ("--update-probability 0", "--update-probability is 0.0, expected more than 0"),
        ("--batch 1", "--batch is 1, expected at least 2"),
        ("--batch 41", "--batch is 41, expected at most the 40 images"),
        ("--hidden 99999999", "make them smaller"),
    ],
)
def test_a_mistake_is_one_clear_line(words, message, capsys):
    assert main(["run", "layers", "--data-dir", "mnist", *words.split()]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("runs").exists()


def test_horizon_and_a_text_are_refused(capsys):
    layers("--updates", 1, "--out", "out")
    for words in (["horizon", "out"], ["sample", "out", "--length", "3"]):
        assert main(words) == 1
    assert "has none" in capsys.readouterr().err


def test_the_net_is_evaluated_connected_and_stays_in_training_mode():
    options = Options(hidden=8, hidden_layers=2, batch=8, data_dir="mnist", trainer="unlock")
    prepare(options)
    net = build_net(options, 784)
    trainer = build_trainer(options, net, 784)
    assert [each.shape for each in trainer.inputs or []] == [(8,), (8,)]
    train = read_mnist("mnist").train
    pixels, labels = train.pixels_nP.float() / 255, train.labels_n
    found = errors(net, pixels, labels, rows=7)
    assert net.training
    net.eval()
    assert found["error"] == (net(pixels).argmax(1) != labels).double().mean().item()


MNIST = Path(__file__).parents[2].parent / "shared/data/mnist"


@pytest.mark.skipif(not MNIST.is_dir(), reason="no MNIST beside the checkout")
def test_on_mnist_every_layer_learns_and_shuffled_gradients_teach_nothing(tmp_path, monkeypatch):
    monkeypatch.undo()  # the whole of MNIST
    monkeypatch.chdir(tmp_path)
    errors_of = {}
    for name, words in (
        ("cdni", ["--trainer", "cdni"]),
        ("shuffled", ["--trainer", "cdni", "--control", "shuffled"]),
        ("none", ["--trainer", "none"]),
    ):
        common = ["--data-dir", MNIST, "--threads", 1, "--updates", 150, "--batch", 128]
        run("layers", *common, "--hidden", 64, *words, "--out", name)
        errors_of[name] = result_of(name)["test_error"]
    assert errors_of["cdni"] < 0.1
    assert errors_of["none"] > 0.15
    assert errors_of["shuffled"] > 0.15
