"""Several processes train as one does, to rounding; and what cannot work is refused.

The processes are real, and talk by Gloo on the loopback.
"""

from __future__ import annotations

import parallel_cases
import pytest
import torch
import torch.distributed as dist
from launched import run_program
from oracles import make_model

from seqdni import DataParallel, Learner, Trainer
from seqdni.trainer_parts import check_parallel


def trained(size, out):
    """What each of so many processes came to, by case."""
    statuses, errors = run_program(parallel_cases.__file__, size, out, limit=300)
    assert statuses == [0] * size, errors[0][-2000:]
    return [torch.load(out / f"{size}-{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 4])
def test_parts_of_the_rows_train_as_all_rows_in_one_process(size, tmp_path):
    first, *others = trained(size, tmp_path)
    for case in parallel_cases.cases(size):
        alone, found = parallel_cases.train(*case, None), first[case]
        for part in ("weights", "boundary"):
            torch.testing.assert_close(
                found[part], alone[part], msg=lambda text, at=(case, part): f"{at}: {text}"
            )
            for other in others:  # every process has the same weights, to the last bit
                assert all(map(torch.equal, other[case][part], found[part])), case
        assert (found["updates"], found["tokens"]) == (alone["updates"], alone["tokens"]), case
        assert found["sums"] == pytest.approx(alone["sums"]), case
        if size == 2:
            assert all(map(torch.equal, found["weights"], found["never stopped"])), case
        else:
            check_that_one_process_goes_on(case, found["saved"], alone["saved"])


def check_that_one_process_goes_on(case, saved, alone):
    """A checkpoint of several processes, and one of one process, are continued to the same end."""
    name, resets = case
    found = []
    for each in (saved, alone):
        trainer = parallel_cases.CASES[name].trainer(None)
        trainer.load_state_dict(each)
        torch.manual_seed(parallel_cases.SEED)
        ends = parallel_cases.END, parallel_cases.CHUNKS
        found.append(parallel_cases.run(parallel_cases.CASES[name], trainer, resets, *ends))
    assert found[0].tokens == found[1].tokens
    for a, b in zip(*map(parallel_cases.weights, found), strict=True):
        torch.testing.assert_close(a, b)
    assert found[0].meter.read() == pytest.approx(found[1].meter.read())


@pytest.fixture
def alone(tmp_path):
    """A process group of this process only."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield DataParallel()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "name", ["accumulation", "dni", "dni-rls", "hierarchy", "overlap", "influence"]
)
def test_one_process_is_no_distribution_bit_for_bit(name, alone):
    case, found = parallel_cases.CASES[name], []
    for parallel in (None, alone):
        torch.manual_seed(parallel_cases.SEED)
        begun = parallel_cases.run(case, case.trainer(parallel), True, 0, 11)
        trainer = case.trainer(parallel)
        trainer.load_state_dict(begun.state_dict())
        parallel_cases.run(case, trainer, True, 11, 16)
        found.append(parallel_cases.weights(trainer))
    assert all(map(torch.equal, *found))


def test_the_weights_of_a_loss_are_saved_and_are_not_missing():
    case = parallel_cases.CASES["loss with a parameter"]
    begun = parallel_cases.run(case, case.trainer(None), True, 0, 5)
    saved, other = begun.state_dict(), case.trainer(None)
    assert saved["steps"]["loss"]["factor"] != 1
    other.load_state_dict(saved)
    assert all(map(torch.equal, *map(parallel_cases.weights, (begun, other))))
    del saved["steps"]["loss"]
    with pytest.raises(ValueError, match="the loss has weights, and the saved trainer has none"):
        other.load_state_dict(saved)


def test_what_does_not_go_together_is_refused(alone):
    model = make_model("lstm", 1)
    learner = Learner(torch.optim.Adam(model.parameters()))
    with pytest.raises(TypeError, match="expected a DataParallel"):
        check_parallel(2)
    with pytest.raises(ValueError, match="capture=True is for one process alone"):
        Trainer(model, learner, parallel=alone, capture=True)


def test_weights_that_are_spread_over_the_processes_are_refused(alone):
    fully_shard = pytest.importorskip("torch.distributed.fsdp").fully_shard
    model = make_model("lstm", 1)
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=r"spread over the processes \(FSDP.*DataParallel\(\)"):
        Trainer(model, Learner(adam))


def test_rows_that_cannot_be_dealt_are_refused(alone):
    alone.size = 3
    with pytest.raises(ValueError, match="32 rows cannot be dealt equally to 3 processes"):
        alone.rows(32)


def test_without_a_process_group_it_says_what_to_do():
    with pytest.raises(RuntimeError, match="torchrun"):
        DataParallel()
