"""Several processes train as one does, to rounding; and what cannot work is refused.

The processes are real, and talk by Gloo on the loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys

import parallel_cases
import pytest
import torch
import torch.distributed as dist
from oracles import make_model, make_trainer
from trainers import flat_trainer

from seqdni import Audit, Boundary, DataParallel, LeastSquares, state_size
from seqdni.trainer_parts import check_parallel

SIZES = (2, 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What each process of 2 and of 4 came to, by size and rank."""
    out, found = tmp_path_factory.mktemp("parallel"), {}
    paths = [path for path in sys.path if path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    for size in SIZES:
        words = [sys.executable, parallel_cases.__file__]
        processes = [
            subprocess.Popen(
                [*words, str(rank), str(size), str(out / f"store-{size}"), str(out)],
                env=environment,
                stderr=subprocess.PIPE,
            )
            for rank in range(size)
        ]
        errors = [process.communicate(timeout=240)[1].decode() for process in processes]
        assert [process.returncode for process in processes] == [0] * size, errors[0][-2000:]
        for rank in range(size):
            found[size, rank] = torch.load(out / f"{size}-{rank}.pt", weights_only=True)
    return found


@pytest.mark.parametrize(("name", "resets"), parallel_cases.cases(2))
def test_parts_of_the_rows_train_as_all_rows_in_one_process(name, resets, trained):
    alone = parallel_cases.train(name, resets, None)
    for size in SIZES:
        if (name, resets) not in parallel_cases.cases(size):
            continue
        first = trained[size, 0][name, resets]
        torch.testing.assert_close(first["weights"], alone["weights"])
        torch.testing.assert_close(first["boundary"], alone["boundary"])
        assert first["updates"] == alone["updates"]
        assert first["tokens"] == alone["tokens"]
        assert first["sums"]["loss_sum"] == pytest.approx(alone["sums"]["loss_sum"])
        for rank in range(1, size):  # every process has the same weights, to the last bit
            other = trained[size, rank][name, resets]
            for part in ("weights", "boundary"):
                assert all(map(torch.equal, other[part], first[part]))


@pytest.mark.parametrize("name", parallel_cases.QUICK)
def test_a_checkpoint_goes_on_with_another_number_of_processes(name, trained):
    alone = parallel_cases.train(name, True, None)
    saved = trained[4, 0][name, True]["saved"]
    resumed = parallel_cases.CASES[name](None)
    resumed.load_state_dict(saved)
    there = parallel_cases.CASES[name](None)
    there.load_state_dict(alone["saved"])
    ready = parallel_cases.chunks(True, slice(None))
    for trainer in (resumed, there):
        parallel_cases.step(trainer, name, ready, 50)
        parallel_cases.step(trainer, name, ready, 51)
    assert resumed.tokens == there.tokens
    for a, b in zip(resumed.model.parameters(), there.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert resumed.meter.read() == pytest.approx(there.meter.read())


@pytest.fixture
def alone(tmp_path):
    """A process group of this process only."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield DataParallel()
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["tbptt", "dni", "dni-rls"])
def test_one_process_is_no_distribution_bit_for_bit(name, alone):
    found = []
    for parallel in (None, alone):
        trainer = parallel_cases.CASES[name](parallel)
        for chunk in parallel_cases.chunks(True, slice(None))[:12]:
            trainer.step(chunk)
        found.append([*trainer.model.parameters()])
    assert all(map(torch.equal, *found))


def test_what_does_not_go_together_is_refused(alone):
    model = make_model("lstm", 1)
    for name in ("overlap", "influence"):
        with pytest.raises(ValueError, match="leave parallel out"):
            make_trainer(model, name, parallel=alone)
    boundary = Boundary(LeastSquares(state_size(model.initial_state(1))))
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="an audit keeps"):
        flat_trainer(model, adam, boundary=boundary, audit=Audit(), parallel=alone)
    with pytest.raises(TypeError, match="expected a DataParallel"):
        check_parallel(None, 2, False)


def test_rows_that_cannot_be_dealt_are_refused(alone):
    alone.size = 3
    with pytest.raises(ValueError, match="32 rows cannot be dealt equally to 3 processes"):
        alone.rows(32)


def test_without_a_process_group_it_says_what_to_do():
    with pytest.raises(RuntimeError, match="torchrun"):
        DataParallel()
