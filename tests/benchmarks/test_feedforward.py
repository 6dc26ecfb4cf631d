"""The study of feed-forward nets: its cells exist, and its tables are those of the page."""

from __future__ import annotations

import feedforward
import pytest
from render import row_of
from study import ROOT, SEEDS, read_rows

ROWS = read_rows(ROOT / "benchmarks" / "results" / "feedforward.jsonl")


@pytest.mark.parametrize("name", feedforward.EXPERIMENTS)
def test_every_cell_is_a_run_of_the_recipe(name):
    runs = feedforward.EXPERIMENTS[name].runs()  # each cell is checked
    assert {run.seed for run in runs} <= set(SEEDS["final"])
    for run in runs:
        options = run.cell.options
        assert options["batch"] == 256
        assert ("control" in options and options["control"] == "shuffled") == (
            "shuffled" in run.arm
        )


def test_the_arms_at_one_depth_differ_in_the_way_alone():
    runs = [run for run in feedforward.EXPERIMENTS["depth"].runs() if run.seed == 21]
    for column in feedforward.EXPERIMENTS["depth"].columns:
        backprop, cdni = (run.cell.options for run in runs if run.column == column)
        shared = backprop.keys() & cdni.keys() - {"trainer", "synthesizer"}
        assert {name: backprop[name] for name in shared} == {name: cdni[name] for name in shared}
        assert cdni["synthesizer"] == "rls"


@pytest.mark.parametrize("name", feedforward.EXPERIMENTS)
def test_the_table_of_the_page_is_that_of_the_rows(name):
    page = (ROOT / "docs" / "feedforward.md").read_text(encoding="utf-8")
    table = feedforward.table(feedforward.EXPERIMENTS[name], ROWS)
    assert f"<!-- table feedforward/{name} -->\n\n{table}\n\n<!-- end -->" in page


def test_the_main_table_has_a_run_in_every_cell():
    experiment = feedforward.EXPERIMENTS["depth"]
    table = feedforward.table(experiment, ROWS)
    assert table.count(" ± ") == len(experiment.arms) * len(experiment.columns)


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="lacks <!-- table feedforward/depth -->"):
        feedforward.main(["--render", "--page", str(page)])
    with pytest.raises(SystemExit, match="give --mnist-dir"):
        feedforward.main([])


@pytest.mark.parametrize("name", ["curves", "curves-by-chance"])
def test_every_curve_of_the_figure_has_its_row(name):
    """docs/figures/feedforward_curves.py draws them: two points a pass, to the end of the run."""
    picture = (ROOT / "docs/figures/feedforward-curves.svg").read_text(encoding="utf-8")
    for run in feedforward.EXPERIMENTS[name].runs():
        row = row_of(run, ROWS)
        assert row is not None, run
        steps, tokens, error = row["curve"][-1]
        assert (steps, tokens, error) == (
            row["tokens"] // 256,
            row["tokens"],
            row["held_out_error"],
        )
        assert len(row["curve"]) == 2 * run.cell.options["epochs"]
        assert f"<!-- {run.arm}: {100 * error:.1f} -->" in picture
