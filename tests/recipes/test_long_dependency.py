"""The recipes with late answers: every trainer, what they write, and that they learn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from runs import result_of, rows_of, run
from tiny_mnist import accept_tiny_mnist, write_tiny_mnist
from trainers import flat_trainer

from seqdni import (
    Boundary,
    LeastSquares,
    OneHot,
    SequenceModel,
    TorchCore,
    cross_entropy,
    squared_error,
    whole_episodes,
)
from seqdni.corpora import (
    AddingTask,
    CopyMemoryTask,
    Difficulty,
    Episode,
    LockstepEpisodes,
    MnistTask,
    RecallTask,
    ShuffledImages,
    read_mnist,
)
from seqdni.recipes.build import loss_for
from seqdni.recipes.cli import main
from seqdni.recipes.known_answers import KnownAnswers
from seqdni.recipes.long_dependency import scores

TINY = ["--hidden", "8", "--batch", "4", "--threads", "1"]
RUNS = {
    "adding": ["--length", "9", "--chunk-len", "4"],
    "recall": ["--length", "7", "--chunk-len", "4"],
    "copy-memory": ["--length", "5", "--count", "3", "--chunk-len", "4"],
    "mnist": ["--data-dir", "mnist", "--chunk-len", "10", "--permute", "true"],
}
STEPS = {"adding": 9, "recall": 9, "copy-memory": 11, "mnist": 28}
EXPECTED = {
    "adding": {"held_out_mse", "chance_mse", "length"},
    "recall": {"held_out_accuracy", "held_out_bits", "chance_accuracy", "chance_bits", "length"},
    "copy-memory": {"held_out_accuracy", "held_out_bits", "chance_accuracy", "chance_bits"},
    "mnist": {"held_out_accuracy", "held_out_bits", "test_accuracy", "test_bits"}
    | {"chance_accuracy"},
}


@pytest.fixture(autouse=True)
def tiny_mnist_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accept_tiny_mnist(monkeypatch)
    write_tiny_mnist(Path("mnist"))


@pytest.mark.parametrize(
    "trainer", ["bptt", "tbptt", "random", "overlap", "influence", "dni", "dni-aux"]
)
@pytest.mark.parametrize("recipe", RUNS)
def test_every_trainer_runs(recipe, trainer, capsys):
    words = [*RUNS[recipe], *TINY, "--trainer", trainer, "--log-every", 2, "--evaluate-every", 4]
    if trainer == "bptt":
        at = words.index("--chunk-len")
        del words[at : at + 2]
    run(recipe, *words, "--updates", 8, "--out", "out")
    result = result_of("out")
    assert result.keys() >= EXPECTED[recipe]
    assert (result["recipe"], result["trainer"], result["updates"]) == (recipe, trainer, 8)
    assert result["tokens"] == 8 * 4 * STEPS[recipe]

    rows, metric = rows_of("out"), "mse" if recipe == "adding" else "accuracy"
    unit = "train_mse" if recipe == "adding" else "train_bits"
    assert [row["update"] for row in rows] == [2, 4, 6, 8]
    assert all(math.isfinite(row[unit]) and "note" not in row for row in rows)
    seen = [row[f"held_out_{metric}"] for row in rows if f"held_out_{metric}" in row]
    assert [value for _, _, value in result["curve"]] == seen
    assert len(seen) == 2
    assert seen[-1] == round(result[f"held_out_{metric}"], 5)
    capsys.readouterr()

    assert main(["eval", "out"]) == 0
    printed = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    measured = {name for name in EXPECTED[recipe] if name != "length"}
    assert printed == {name: f"{result[name]:.4f}" for name in measured}
    assert main(["sample", "out", "--seed", "3"]) == 0
    sampled = capsys.readouterr().out
    assert "target" in sampled
    assert "output" in sampled
    assert main(["sample", "out", "--seed", "3"]) == 0
    assert capsys.readouterr().out == sampled


@pytest.mark.parametrize("recipe", RUNS)
def test_the_horizon_of_a_run(recipe, capsys):
    words = [*RUNS[recipe], *TINY, "--horizon-every", 5, "--log-every", 5]
    run(recipe, *words, "--updates", 10, "--out", "out")
    assert all(-1 <= row["horizon_cosine"] <= 1 for row in rows_of("out"))
    assert main(["horizon", "out"]) == 0
    found = json.loads(Path("out", "horizon.json").read_text())
    chunk_len = int(words[words.index("--chunk-len") + 1])
    expected = list(range(chunk_len, STEPS[recipe], chunk_len))
    assert [row["step"] for row in found["boundaries"]] == expected


@pytest.mark.parametrize("recipe", RUNS)
def test_the_critic_is_the_default_and_least_squares_can_look_ahead(recipe):
    run(recipe, *RUNS[recipe], *TINY, "--updates", 2, "--out", "out")
    saved = yaml.safe_load(Path("out/config.yaml").read_text())
    assert (saved["synthesizer"], saved["grad_scale"]) == ("critic", 0.1)
    run(recipe, *RUNS[recipe], *TINY, "--look-ahead", 2, "--updates", 2, "--out", "ahead")
    saved = yaml.safe_load(Path("ahead/config.yaml").read_text())
    assert (saved["synthesizer"], saved["grad_scale"]) == ("rls", 1.0)


def test_a_critic_is_told_the_answers_that_are_still_to_come():
    task = CopyMemoryTask(symbols=3, count=3)
    episode = task.episode(Difficulty(4), 2, torch.Generator().manual_seed(0))
    known = KnownAnswers.of(episode, classes=3, chunk_len=3)
    assert (known.answers, known.boundaries) == (3, 3)  # 10 steps: chunks of 3, 3, 3 and 1
    critic = known.critic(state_size=4)
    stream = LockstepEpisodes(task, Difficulty(4), 2, 3, seed=0)
    due = None
    for k in range(4):
        chunk = next(stream)
        rest = stream.peek(100)
        due = chunk.inputs if k == 0 else due
        found = known.condition(critic, [] if rest is None else [rest], 2)
        left = [3, 3, 1, 0][k]  # answers after steps 3, 6, 9 and 10; the first is at step 7
        expected = torch.zeros(2, critic.condition_size)
        if left:
            expected = critic.condition(due[3 - left :], position=k)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("by", ["7", "row"])
def test_gates_begin_with_memories_of_many_lengths(by):
    words = [*RUNS["mnist"], *TINY, "--by", by, "--chrono-steps", 50]
    run("mnist", *words, "--lr", 1e-30, "--updates", 1, "--out", "out")
    saved = torch.load("out/last.pt", weights_only=True)["trainer"]["model"]
    bias = next(v for name, v in saved.items() if name.endswith("bias_hh_l0"))
    entry, forget = bias[:8], bias[8:16]
    torch.testing.assert_close(entry, -forget)
    assert 0 <= forget.min() < forget.max() <= math.log(49)
    assert bias[16:].abs().max() < 1e-20


def test_an_audit_is_logged():
    words = ["--length", 9, "--chunk-len", 3, *TINY, "--synthesizer", "rls", "--audit-every", 2]
    run("adding", *words, "--log-every", 1, "--updates", 20, "--out", "out")
    rows = rows_of("out")
    assert all(0 <= row["audit_worth"] <= 1 for row in rows)
    assert all(-1 <= row["audit_cosine"] <= 1 for row in rows[1:])
    assert "audit_cosine" not in rows[0]  # nothing has been compared
    assert any(row["audit_worth"] > 0 for row in rows)


def test_longer_episodes_than_in_training(capsys):
    run("recall", *RUNS["recall"], *TINY, "--updates", 5, "--out", "out")
    capsys.readouterr()
    assert main(["sample", "out", "--length", "12"]) == 0
    assert len(capsys.readouterr().out.splitlines()[0].split()) == 1 + 12 + 2
    assert main(["horizon", "out", "--length", "12"]) == 0


MISTAKES = {
    "adding --length 1": "--length is 1, expected at least 2",
    "recall --length 0": "--length is 0, expected at least 1",
    "recall --symbols 1": "--symbols is 1, expected at least 2",
    "recall --synthesizer none": "use --trainer tbptt",
    "mnist": "mnist needs --data-dir, the folder with the four files of MNIST",
    "mnist --data-dir nowhere": "nowhere: no such folder; expected the folder with MNIST's",
    "mnist --data-dir mnist --batch 41": "--batch is 41, expected at most the 40 images",
    "mnist --data-dir mnist --permute-seed 2": "--permute-seed has no effect here",
    "adding --trainer bptt --chunk-len 3": "--chunk-len has no effect here",
    "recall --chrono-steps 9 --forget-bias 2": "--forget-bias has no effect here",
    "mnist --by 5": "--by is 5, expected 'pixel', 'row', or a number of pixels of which 784",
    "adding --synthesizer critic --look-ahead 2": "critic does not go with --look-ahead",
    "adding --synthesizer critic --bound 2": "--bound has no effect here",
    "copy --synthesizer critic": "needs episodes of one length with answers that are known ahead",
    "copy --look-ahead 2 --audit-every 5": "--audit-every does not go with --look-ahead",
    "lm --synthesizer mlp --look-ahead 0 --audit-every 5": "--audit-every needs episodes",
    "copy --audit-every 5 --episodes back-to-back --update-every 1": "--audit-every needs episodes",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_clear_line(words, capsys):
    assert main(["run", *words.split()]) == 1
    error = capsys.readouterr().err
    assert MISTAKES[words] in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_mistakes_with_a_trained_run(capsys):
    run("mnist", *RUNS["mnist"], *TINY, "--updates", 5, "--out", "out")
    run("adding", *RUNS["adding"], *TINY, "--updates", 5, "--out", "added")
    capsys.readouterr()
    for words, message in {
        ("eval", "out", "--text", "x"): "--text, --split and --unknown are for runs of lm",
        (
            "sample",
            "out",
            "--prompt",
            "x",
        ): "--prompt, --temperature and --top-k are for runs of lm",
        ("sample", "out", "--length", "9"): "--length has no effect here",
        ("sample", "added", "--length", "1"): "--length 1: difficulty.length is 1, expected >= 2",
        ("eval", "added", "--data-dir", "x"): "--data-dir has no effect",
    }.items():
        assert main(list(words)) == 1
        assert message in capsys.readouterr().err


def test_other_images_than_the_run_s_are_refused(capsys):
    run("mnist", *RUNS["mnist"], *TINY, "--updates", 5, "--out", "out")
    Path("mnist").rename("moved")
    assert main(["eval", "out"]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["eval", "out", "--data-dir", "moved"]) == 0
    images = Path("moved/t10k-images-idx3-ubyte.gz")
    labels = Path("moved/t10k-labels-idx1-ubyte.gz")
    images.with_suffix("").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28]))
    images.with_suffix("").write_bytes(images.with_suffix("").read_bytes() + bytes(20 * 784))
    assert labels.exists()
    for words in (["eval", "out"], ["run", "mnist", "--resume", "out", "--updates", "9"]):
        assert main([*words, "--data-dir", "moved"]) == 1
        assert "other images than the run was trained on" in capsys.readouterr().err


def test_the_loss_follows_from_the_targets():
    real, ids = torch.rand(3, 2), torch.zeros(3, 2, dtype=torch.long)
    outputs = torch.rand(3, 2, 1)
    assert torch.equal(
        loss_for(real)(outputs, real), squared_error(outputs[..., 0:1], real[..., None])
    )
    assert torch.equal(loss_for(real)(outputs, real), (outputs[..., 0] - real).square())
    assert loss_for(ids) is cross_entropy


class Constant(torch.nn.Module):
    """Answers the same at every step."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.tensor(outputs))

    def initial_state(self, batch_size):
        return torch.zeros(1, batch_size, 1)

    def forward(self, inputs, state):
        return self.outputs.expand(*inputs.shape[:2], -1), state


def test_a_constant_answer_scores_chance():
    generator = torch.Generator().manual_seed(0)
    adding = AddingTask().episode(Difficulty(5), 20_000, generator)
    found = scores(Constant([1.0]), adding)
    assert found == {"mse": pytest.approx(AddingTask().chance_mse, rel=0.05)}
    task = RecallTask(symbols=4)
    found = scores(Constant([0.0] * 4), task.episode(Difficulty(2), 20_000, generator))
    assert found["bits"] == pytest.approx(task.chance_bits)
    assert found["accuracy"] == pytest.approx(task.chance_accuracy, abs=0.02)
    images = read_mnist("mnist").valid
    assert scores(Constant([0.0] * 10), MnistTask("row").episode(images))["accuracy"] == 0.1


def test_scores_do_not_depend_on_how_rows_are_batched():
    torch.manual_seed(0)
    rnn = torch.nn.LSTM(2, 4)
    model = SequenceModel(torch.nn.Identity(), TorchCore(rnn), torch.nn.Linear(4, 1))
    episode = AddingTask().episode(Difficulty(6), 600, torch.Generator())
    outputs, _ = model(episode.inputs_LB, model.initial_state(600))
    expected = (outputs[-1, :, 0] - episode.targets_LB[-1]).square().mean().item()
    assert scores(model, episode)["mse"] == pytest.approx(expected, rel=1e-5)


def learned(task, stream, held_out: Episode, updates: int, dni: bool) -> dict[str, float]:
    """Scores of a small LSTM after some updates through the public Trainer."""
    torch.manual_seed(0)
    real = held_out.inputs_LB.is_floating_point()
    encoder = torch.nn.Identity() if real else OneHot(task.input_size)
    readout = torch.nn.Linear(32, task.output_size)
    model = SequenceModel(encoder, TorchCore(torch.nn.LSTM(task.input_size, 32)), readout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss = loss_for(held_out.targets_LB)
    boundary = Boundary(LeastSquares(64), bound=1.0) if dni else None
    trainer = flat_trainer(
        model, optimizer, boundary=boundary, loss=loss, clip=1.0, update_every="episode"
    )
    chunks = iter(stream if dni else whole_episodes(stream))
    while trainer.updates < updates:
        trainer.step(next(chunks))
    return scores(model, held_out)


@pytest.mark.parametrize("dni", [False, True], ids=["bptt", "dni"])
def test_adding_is_learned(dni):
    """In episodes of eight steps; DNI in chunks of four."""
    task, level = AddingTask(), Difficulty(8)
    held_out = task.episode(level, 500, torch.Generator().manual_seed(9))
    stream = LockstepEpisodes(task, level, 32, 4, seed=0)
    assert learned(task, stream, held_out, 250, dni)["mse"] < task.chance_mse / 1.5


@pytest.mark.parametrize("dni", [False, True], ids=["bptt", "dni"])
def test_recall_is_learned(dni):
    """Across four steps of noise; DNI in chunks of three, none of which has both ends."""
    task, level = RecallTask(), Difficulty(4)
    held_out = task.episode(level, 500, torch.Generator().manual_seed(9))
    stream = LockstepEpisodes(task, level, 32, 3, seed=0)
    assert learned(task, stream, held_out, 200, dni)["accuracy"] > 0.9


def test_images_are_learned():
    """Bars at ten heights, read row by row in chunks of seven: the digit is where the bar was."""
    data, task = read_mnist("mnist"), MnistTask("row")
    stream = ShuffledImages(task, data.train, 20, 7, seed=0)
    assert learned(task, stream, task.episode(data.valid), 80, dni=True)["accuracy"] > 0.3


@pytest.mark.parametrize(("trainer", "solves"), [("tbptt", False), ("influence", True)])
def test_the_influence_holds_a_symbol_beyond_a_chunk(trainer, solves):
    """Three boundaries lie between the symbol and the answer: truncation stays at chance."""
    words = ["--length", 18, "--chunk-len", 5, "--hidden", 24, "--batch", 32, "--lr", 1e-2]
    words += ["--chrono-steps", 20, "--threads", 1, "--device", "cpu"]
    run("recall", *words, "--trainer", trainer, "--updates", 150, "--out", "out")
    accuracy = result_of("out")["held_out_accuracy"]
    assert accuracy > 0.95 if solves else accuracy < 0.4
