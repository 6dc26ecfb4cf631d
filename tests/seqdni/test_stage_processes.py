"""Stages in processes of their own train as in one process, bit for bit; the processes are real."""

from __future__ import annotations

import ast
import json

import pytest
import stage_cases
import torch
import torch.distributed as dist
from launched import run_program
from runs import assert_same

from seqdni import train_in_processes, train_in_threads
from seqdni.channel import Channel
from seqdni.state_bytes import from_bytes, to_bytes


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process came to, and its errors."""
    out = tmp_path_factory.mktemp("stages")
    expected = [7 if rank == stage_cases.LOST else 0 for rank in range(stage_cases.STAGES)]
    statuses, errors = run_program(stage_cases.__file__, stage_cases.STAGES, out)
    assert statuses == expected, errors
    return [
        (
            torch.load(out / f"{rank}.pt", weights_only=True),
            ast.literal_eval((out / f"{rank}.txt").read_text()) if status == 0 else {},
        )
        for rank, status in enumerate(expected)
    ]


@pytest.mark.parametrize("case", stage_cases.CASES)
def test_each_process_gets_what_one_process_trains_bit_for_bit(case, found):
    build, staleness = stage_cases.CASES[case]
    alone = build()
    for part in stage_cases.parts():
        if staleness == 0:
            for x, y, told in part:
                alone.step(x, y, told)
        else:
            train_in_threads(alone, part, staleness=staleness)
    for rank, (states, _) in enumerate(found):
        assert_same(states[case]["state"], alone.state_dict())
        assert states[case]["stages"] == [rank]  # it has worked its own stage alone


def test_messages_arrive_in_their_order_and_as_they_were_sent(found):
    sent, received = found[0][0]["letters"]["sent"], found[1][0]["letters"]["received"]
    assert [None if x is None else x.dtype for x in received] == [
        None if x is None else x.dtype for x in sent
    ]
    assert_same(received, sent)
    assert [x.tolist() for x in found[1][0]["letters"]["steps"]] == [[k] * 3 for k in range(20)]


def test_a_message_that_was_not_expected_says_what_it_is(found):
    assert found[1][0]["letters"]["unexpected"].startswith(
        "ValueError: process 0, which is number 0, sent a message PARCEL of step 21, "
        "expected one of step 22"
    )


def test_trainers_and_numbers_that_do_not_fit_are_refused_in_all_processes(found):
    for rank, (_, errors) in enumerate(found):
        if rank != stage_cases.LOST:
            assert "different trainers (checksums of their states)" in errors["trainers"]
            assert "got 3 processes for 4 stages" in errors["number"]
            assert "torchrun --nproc-per-node 4" in errors["number"]


@pytest.mark.parametrize("what", ["inputs", "targets", "condition"])
def test_processes_that_got_different_batches_are_told_so(what, found):
    for rank in range(stage_cases.LOST):
        assert found[rank][1][f"different {what}"].startswith(
            "ValueError: the processes have different chunks or batches (checksums)"
        )


def test_a_process_that_ends_is_named_by_those_that_talk_with_it(found):
    assert found[1][1]["lost"].startswith(
        "ProcessEnded: process 2, which runs stage 2, has ended; its message says why"
    )
    assert found[0][1]["lost"].startswith("ProcessEnded: process 1, which runs stage 1, has ended")


def test_a_channel_needs_processes():
    with pytest.raises(RuntimeError, match="start the processes with torchrun"):
        Channel(1, "is number 1")


def test_a_state_is_the_same_after_it_was_sent_and_code_is_refused():
    trainer = stage_cases.trainer_of()
    for x, y, told in stage_cases.batches(2):
        trainer.step(x, y, told)
    state = {**trainer.state_dict(), "numbers": (0.1, -1, True, None, float("inf"), "text")}
    assert_same(from_bytes(to_bytes(state)), state)
    with pytest.raises(TypeError, match="got a function in a training state"):
        to_bytes({"code": print_nothing})


def print_nothing():
    """No state."""


@pytest.mark.parametrize("name", ["load", "no_such_type", "Tensor"])
def test_bytes_of_a_stranger_name_no_function(name):
    text = json.dumps({"tensor": [name, [1], 0]}).encode()
    data = len(text).to_bytes(8, "little") + text
    with pytest.raises(ValueError, match=f"got a tensor of {name} in bytes"):
        from_bytes(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def test_a_process_that_has_ended_before_the_trainers_are_compared_is_an_error_of_its_own(found):
    for rank in range(stage_cases.LOST):
        assert found[rank][1]["ended before"].startswith(
            "ProcessEnded: another process has ended, or does not answer; its message says why"
        )


def test_processes_that_talk_by_nccl_alone_are_refused(tmp_path, monkeypatch):
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    monkeypatch.setattr(dist, "get_backend_config", lambda group=None: "cuda:nccl")
    try:
        with pytest.raises(ValueError, match="talk by cuda:nccl, expected Gloo on the CPU"):
            train_in_processes(stage_cases.trainer_of(), [])
    finally:
        dist.destroy_process_group()


def test_one_process_of_a_group_cannot_run_several_stages(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="got 1 processes for 3 stages"):
            train_in_processes(stage_cases.trainer_of(), [])
    finally:
        dist.destroy_process_group()
