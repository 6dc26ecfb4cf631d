"""The credit suite: its cells exist, it takes the best rates, its table is that of the page."""

from __future__ import annotations

import credit
import pytest
import render
from study import ROOT, SEEDS, Outcome, key, read_rows

ROWS = read_rows(ROOT / "benchmarks" / "results" / "credit.jsonl")


@pytest.mark.parametrize("name", credit.TASKS)
def test_the_ways_of_a_task_differ_in_nothing_else(name):
    runs = credit.final(name, dict.fromkeys(credit.ARMS, 1e-3)).runs()  # each cell is checked
    assert {(run.arm, run.seed) for run in runs} == {
        (arm, seed) for arm in credit.ARMS for seed in SEEDS["final"]
    }
    of = {run.arm: run.cell.options for run in runs if run.seed == SEEDS["final"][0]}
    own = {"trainer", "chunk_len", "update_every"}  # full BPTT has one chunk an episode
    for arm in ("DNI", "full BPTT", "shuffled"):
        both = of["TBPTT"].keys() & of[arm].keys() - own
        assert {o: of[arm][o] for o in both} == {o: of["TBPTT"][o] for o in both}
    assert of["DNI"]["synthesizer"] == "critic"
    assert {**of["DNI"], "control": "shuffled"} == of["shuffled"]
    searched = credit.search(name).runs()
    assert len(searched) == len(credit.SEARCHED) * len(credit.TASKS[name].rates)
    assert not {run.seed for run in searched} & set(SEEDS["final"])


def test_the_rate_with_the_smallest_error_is_taken():
    rows, errors = {}, {1e-3: 0.5, 2e-3: 0.2, 4e-3: 0.3}
    for run in credit.search("recall").runs():
        error = errors[run.cell.options["lr"]]
        if run.cell.options["trainer"] == "bptt":
            error = -error
        rows[key("recall", run.cell.options)] = {"held_out_bits": error}
    assert credit.best_rates("recall", rows) == {
        **{"TBPTT": 2e-3, "DNI": 2e-3, "full BPTT": 1e-3, "shuffled": 2e-3},
    }
    rows.popitem()
    assert credit.best_rates("recall", rows) is None


def test_the_table_of_the_page_is_that_of_the_rows(tmp_path):
    page = (ROOT / "docs" / "credit.md").read_text(encoding="utf-8")
    table, audit = credit.table(list(credit.TASKS), ROWS), credit.audit_table(ROWS)
    assert table.count("\n") >= 1 + 5
    assert audit.count("\n") == 1 + 3
    for name, text in (("credit", table), ("audit", audit)):
        assert f"<!-- table {name} -->\n\n{text}\n\n<!-- end -->" in page
    bare = tmp_path / "page.md"
    bare.write_text("nothing")
    with pytest.raises(ValueError, match="lacks"):
        render.put_table(bare, "credit", table)


def test_a_gap_within_the_noise_is_no_gap():
    found = {"TBPTT": [0.5, 0.7], "DNI": [0.9, 0.9], "full BPTT": [0.6, 0.7]}
    assert credit._share(found, "DNI") == "no gap"
    found["full BPTT"] = [1.0, 1.0]
    assert credit._share(found, "DNI") == "0.75"


def test_without_mnist_its_tasks_are_skipped(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        credit, "carry_out", lambda runs, *_: asked.append(runs) or Outcome([], False)
    )
    page = tmp_path / "page.md"
    marks = (f"<!-- table {name} -->\n<!-- end -->\n" for name in ("credit", "audit"))
    page.write_text("".join(marks))
    words = ["--page", str(page), "--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path)]
    assert credit.main([*words, "--quick"]) == 0
    assert "no --mnist-dir: mnist-row" in capsys.readouterr().out
    assert [run.cell.recipe for run in asked[0]] == ["recall"] * 9
