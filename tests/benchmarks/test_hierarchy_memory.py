"""The benchmark of memory: only one graph over all grows with the period squared."""

from __future__ import annotations

import pytest
from hierarchy_memory import main, peak_bytes


def test_only_joint_training_grows_with_the_period_squared():
    kept = {mode: [peak_bytes(mode, t, 16, 32) for t in (4, 8)] for mode in ("joint", "dni")}
    assert kept["joint"][1] / kept["joint"][0] == pytest.approx(4, rel=0.2)
    assert kept["dni"][1] / kept["dni"][0] == pytest.approx(2, rel=0.2)
    assert kept["dni"][0] < kept["joint"][0]


def test_it_prints_a_table(capsys):
    main(["--periods", "2", "3", "--rows", "2", "--width", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["kept", "joint", "dni", "no-feedback"]
    assert all(len(line.split()) == 3 for line in lines[1:])
