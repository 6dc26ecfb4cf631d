"""Mistakes that users of PyTorch make with the library, and what each error has to say.

Run as a program it makes all of them and prints the errors, as a user sees them: without the
checks of annotations that the tests add.
"""

from __future__ import annotations

import json
import math

import numpy as np
import torch
from oracles import make_model
from torch import nn
from trainers import flat_trainer, flat_training

from seqdni import (
    Boundary,
    Learner,
    LeastSquares,
    MLPSynthesizer,
    SyntheticGradients,
    TorchCore,
    Trainer,
    cross_entropy,
    cut,
    leaves,
    look_ahead,
    measure_horizon,
    pack,
    reset_rows,
    target_grad,
    unpack,
    whole_episodes,
)
from seqdni.corpora import TokenStream, evaluation_chunks

SIZE = 12  # of the state of an LSTM of 6 units


def model():
    return make_model("lstm", 1, torch.float32)


def trainer(**options):
    m = model()
    return flat_trainer(m, torch.optim.SGD(m.parameters(), 0.1), **options)


def dni(**options):
    boundary = Boundary(MLPSynthesizer(SIZE))
    synth_optimizer = torch.optim.SGD(boundary.parameters(), 0.1)
    return trainer(boundary=boundary, synth_optimizer=synth_optimizer, **options)


def ids(*shape):
    return torch.zeros(*shape, dtype=torch.long)


def step(*fields, **options):
    return lambda: trainer(**options).step(fields)


def sgd(module):
    return torch.optim.SGD(module.parameters(), 0.1)


def cut_start():
    return cut(model().initial_state(2))


class BatchFirst(nn.Module):
    """Its state has its rows first, as in a loop of one's own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2, 6)


class NoState(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


PACKED = nn.utils.rnn.pack_padded_sequence(torch.zeros(4, 2, 3), [4, 2])

REFUSED = {
    # a boundary in a loop of one's own
    "start detached, not cut": (
        lambda: Boundary(MLPSynthesizer(4)).loss(torch.ones(2, 4)),
        "made by cut",
    ),
    "start computed, not cut": (
        lambda: Boundary(MLPSynthesizer(4)).loss(torch.ones(2, 4, requires_grad=True) * 2),
        "made by cut",
    ),
    "target of a state not cut": (lambda: target_grad(torch.ones(2, 4)), "made by cut"),
    "loss before backward": (
        lambda: Boundary(MLPSynthesizer(SIZE)).loss(cut_start()),
        "backward pass of the chunk",
    ),
    "loss without a synthesizer": (lambda: Boundary(None).loss(cut_start()), "no synthesizer"),
    "state wider than state_size": (
        lambda: Boundary(MLPSynthesizer(8)).bootstrap(torch.ones(2, 12)),
        "built with state_size=8, and the state has 12 features",
    ),
    "least squares, state wider": (
        lambda: LeastSquares(8)(torch.ones(2, 12)),
        r"state_size=12, which is seqdni.state_size\(state\)",
    ),
    "least squares taught other widths": (
        lambda: LeastSquares(8).loss(torch.ones(2, 12), torch.ones(2, 12)),
        "built with state_size=8",
    ),
    "negative grad_scale": (lambda: Boundary(None, grad_scale=-1.0), "grad_scale is -1"),
    "infinite grad_scale": (lambda: Boundary(None, grad_scale=math.inf), "grad_scale is inf"),
    "grad_scale not a number": (lambda: Boundary(None, grad_scale=math.nan), "grad_scale is nan"),
    "bound of zero": (lambda: Boundary(None, bound=0.0), r"bound is 0\.0"),
    "infinite bound": (lambda: Boundary(None, bound=math.inf), "bound is inf"),
    # states
    "an unbatched state": (lambda: pack(torch.zeros(4)), "second to last axis"),
    "feature maps as a state": (lambda: pack(torch.zeros(8, 3, 5, 5)), "flatten features"),
    "leaves of other batches": (
        lambda: pack((torch.zeros(1, 2, 3), torch.zeros(1, 3, 3))),
        "with one B",
    ),
    "a list as a state": (lambda: leaves([torch.zeros(1, 2, 3)]), "an object of type list"),
    "None inside a state": (lambda: leaves((torch.zeros(1, 2, 3), None)), "got None"),
    "a number as a state": (lambda: leaves((1.0,)), "an object of type float"),
    "packed features of another state": (
        lambda: unpack(torch.zeros(2, 5), torch.zeros(1, 2, 3)),
        "got a packed state",
    ),
    "packed rows of another state": (
        lambda: unpack(torch.zeros(5, 3), torch.zeros(1, 2, 3)),
        r"expected \[2, 3\]",
    ),
    "a list to restart": (
        lambda: reset_rows([torch.zeros(1, 2, 3)], torch.tensor([True, False]), ()),
        "an object of type list",
    ),
    "a number for rows": (lambda: TokenStream(np.arange(9), 2, 2, 1), "expected a slice"),
    # a trainer's settings
    "a synthesizer that nothing trains": (
        lambda: trainer(boundary=Boundary(MLPSynthesizer(SIZE))),
        r"no optimizer.*SyntheticGradients\(boundary, .*requires_grad_\(False\)",
    ),
    "a synthesizer of another width": (
        lambda: trainer(boundary=Boundary(LeastSquares(6))),
        "built with state_size=6, and the state has 12",
    ),
    "an optimiser of another model": (
        lambda: flat_trainer(model(), sgd(model())),
        r"optimizer holds parameters of something else \(6 of its 6\), expected those of the model",
    ),
    "an optimiser of more than the model": (
        lambda: flat_trainer(
            m := model(), torch.optim.SGD([*m.parameters(), *model().parameters()])
        ),
        r"optimizer holds parameters of something else \(6 of its 12\)",
    ),
    "the model's optimiser as the synthesizer's": (
        lambda: flat_trainer(
            m := model(), sgd(m), boundary=Boundary(MLPSynthesizer(SIZE)), synth_optimizer=sgd(m)
        ),
        "synthesizer's optimizer holds parameters of something else.*those of the boundary",
    ),
    "update_every 2.5": (lambda: trainer(update_every=2.5), r"update_every is 2\.5"),
    "update_every 0": (lambda: trainer(update_every=0), "update_every is 0"),
    "update_every True": (lambda: trainer(update_every=True), "update_every is True"),
    "update_every a word": (lambda: trainer(update_every="epoch"), "update_every is 'epoch'"),
    "negative clip": (lambda: trainer(clip=-1.0), r"clip is -1\.0"),
    "clip of zero": (lambda: trainer(clip=0.0), r"clip is 0\.0"),
    "clip not a number": (lambda: trainer(clip=math.nan), "clip is nan"),
    "negative synth_clip": (lambda: dni(synth_clip=-1.0), r"the synthesizer's clip is -1\.0"),
    "synth_clip without an optimiser": (
        lambda: trainer(boundary=Boundary(LeastSquares(SIZE)), synth_clip=1.0),
        "clip and updates_per_chunk are for a synthesizer that learns by descent",
    ),
    "negative warmup": (lambda: dni(warmup_chunks=-3), "warmup_chunks is -3"),
    "half a warmup chunk": (lambda: dni(warmup_chunks=0.5), r"warmup_chunks is 0\.5"),
    "an optimizer in place of a learner": (
        lambda: Trainer(m := model(), sgd(m)),
        r"got a SGD, expected a Learner: Trainer\(model, Learner",
    ),
    "a boundary in place of synthetic gradients": (
        lambda: Trainer(m := model(), Learner(sgd(m)), Boundary(LeastSquares(SIZE))),
        r"got a Boundary, .*SyntheticGradients\(boundary\), Overlap\(history=1\), Influence\(\), ",
    ),
    "a synthesizer in place of a boundary": (
        lambda: SyntheticGradients(LeastSquares(SIZE)),
        r"got a LeastSquares .* expected a Boundary",
    ),
    "a model in place of an optimizer": (
        lambda: Learner(model()),
        "got a SequenceModel for the optimizer",
    ),
    "infinite loss_scale": (lambda: trainer(loss_scale=math.inf), "loss_scale is inf"),
    "loss_scale of zero": (lambda: trainer(loss_scale=0.0), r"loss_scale is 0\.0"),
    "negative history": (lambda: trainer(history=-1), "history is -1"),
    "half a chunk of history": (lambda: trainer(history=1.5), r"history is 1\.5"),
    "half a regression step": (lambda: dni(updates_per_chunk=1.5), r"updates_per_chunk is 1\.5"),
    "no chunk to learn from": (lambda: dni(train_fraction=0.0), r"train_fraction is 0\.0"),
    "more than all chunks": (lambda: dni(train_fraction=1.5), r"train_fraction is 1\.5"),
    "another word for non_finite": (lambda: trainer(non_finite="warn"), "non_finite is 'warn'"),
    "another word for targets": (lambda: dni(targets="all"), "targets is 'all'"),
    "dense targets of a model that cannot tell": (
        lambda: flat_trainer(
            m := make_model("rnn", 1, torch.float32),
            sgd(m),
            boundary=Boundary(LeastSquares(6)),
            targets="dense",
        ),
        "targets='dense' needs a model that tells",
    ),
    "float16 without a scaler": (
        lambda: trainer(autocast=torch.float16),
        r"torch\.float16.*use torch\.bfloat16",
    ),
    "autocast in float32": (lambda: trainer(autocast=torch.float32), "expected torch.bfloat16"),
    # a trainer's model
    "a module without initial_state": (
        lambda: flat_trainer(m := NoState(), sgd(m)),
        r"NoState has no initial_state\(batch_size\), expected a core",
    ),
    "torch's own LSTM": (
        lambda: flat_trainer(m := nn.LSTM(3, 4), sgd(m)),
        "LSTM has no initial_state",
    ),
    "a model in DataParallel": (
        lambda: flat_trainer(m := nn.DataParallel(model()), sgd(m)),
        r"wraps a SequenceModel.*DataParallel\.module",
    ),
    "a state with its rows first": (
        lambda: flat_trainer(m := BatchFirst(), sgd(m)),
        r"gives the shapes \[\(3, 2, 6\)\], expected",
    ),
    "a batch-first network": (lambda: TorchCore(nn.GRU(2, 3, batch_first=True)), "batch_first"),
    "a network of two directions": (
        lambda: TorchCore(nn.GRU(2, 3, bidirectional=True)),
        "bidirectional=False",
    ),
    "a cell as a network": (lambda: TorchCore(nn.LSTMCell(2, 3)), "expected nn.LSTM"),
    # chunks
    "a chunk of one field": (step(ids(4, 2)), "expected a chunk"),
    "a chunk of five fields": (step(*[ids(4, 2)] * 5), "expected a chunk"),
    "a tensor for a chunk": (lambda: trainer().step(ids(4, 2)), "expected a chunk"),
    "a dictionary for a chunk": (
        lambda: trainer().step({"inputs": ids(4, 2), "targets": ids(4, 2)}),
        "expected a chunk",
    ),
    "a list for inputs": (step([[1, 2]], ids(1, 2)), "inputs is a list, expected a tensor"),
    "None for targets": (step(ids(4, 2), None), "targets is a NoneType"),
    "a packed sequence for inputs": (step(PACKED, ids(4, 2)), "pad_packed_sequence"),
    "a packed sequence for a chunk": (lambda: trainer().step(PACKED), "pad_packed_sequence"),
    "one row without an axis": (step(ids(4), ids(4)), r"expected \[T, B, \.\.\.\]"),
    "a batch of no rows": (step(ids(4, 0), ids(4, 0)), "the chunk has no rows"),
    "a chunk of no steps": (step(ids(0, 2), ids(0, 2)), "the chunk has no steps"),
    "float token ids": (step(torch.zeros(4, 2), ids(4, 2)), "token ids of torch.float32"),
    "float targets": (step(ids(4, 2), torch.zeros(4, 2)), "targets of torch.float32"),
    "targets of other steps": (step(ids(4, 2), ids(3, 2)), r"targets is \[3, 2\]"),
    "targets of other rows": (step(ids(4, 2), ids(4, 3)), r"targets is \[4, 3\]"),
    "a mask of other steps": (step(ids(4, 2), ids(4, 2), ids(3, 2)), r"mask is \[3, 2\]"),
    "a mask with features": (step(ids(4, 2), ids(4, 2), ids(4, 2, 1)), r"mask is \[4, 2, 1\]"),
    "a mask of probabilities": (
        step(ids(4, 2), ids(4, 2), torch.full((4, 2), 0.5)),
        "mask has values other than 0 and 1",
    ),
    "restarts of two": (
        step(ids(4, 2), ids(4, 2), None, ids(5, 2) + 2),
        "should_reset has values other than 0 and 1",
    ),
    "restarts without the step after": (
        step(ids(4, 2), ids(4, 2), None, ids(4, 2)),
        r"should_reset is \[4, 2\], expected \[5, 2",
    ),
    "a word for a mask": (step(ids(4, 2), ids(4, 2), "all"), "mask is a str"),
    "another batch size": (
        lambda: [(t := trainer()).step((ids(4, 2), ids(4, 2))), t.step((ids(4, 3), ids(4, 3)))],
        "3 rows, the carried state 2",
    ),
    "ahead of other rows": (
        lambda: trainer(boundary=Boundary(None)).step(
            (ids(4, 2), ids(4, 2)), ahead=(ids(4, 3), ids(4, 3))
        ),
        "ahead has 3 rows, the chunk 2",
    ),
    "ahead without a boundary": (
        lambda: trainer().step((ids(4, 2), ids(4, 2)), ahead=(ids(4, 2), ids(4, 2))),
        "ahead needs a boundary",
    ),
    "ahead of one field": (
        lambda: look_ahead(model(), (ids(4, 2),), model().initial_state(2)),
        "expected a chunk",
    ),
    "a horizon of one chunk": (
        lambda: measure_horizon(model(), Boundary(None), [(ids(4, 2), ids(4, 2))]),
        "got 1 chunk, expected at least 2",
    ),
    "episodes of a stream without any": (
        lambda: list(whole_episodes([(ids(4, 2), ids(4, 2))])),
        "the stream has no episodes",
    ),
    # losses
    "a loss of [T, B, 1]": (
        step(ids(4, 2), ids(4, 2), loss=lambda y, t: cross_entropy(y, t)[..., None]),
        r"the loss gave the shape \[4, 2, 1\]",
    ),
    "a loss of [B, T]": (
        step(ids(4, 2), ids(4, 2), loss=lambda y, t: cross_entropy(y, t).t()),
        r"the loss gave the shape \[2, 4\]",
    ),
    "a loss of [T]": (
        step(ids(4, 2), ids(4, 2), loss=lambda y, t: cross_entropy(y, t).sum(1)),
        r"the loss gave the shape \[4\]",
    ),
    "a mean for a loss": (
        step(ids(4, 2), ids(4, 2), loss=lambda y, t: cross_entropy(y, t).mean()),
        r"the loss gave the shape \[\], expected .* does not reduce",
    ),
    # a stream of tokens
    "tokens in two dimensions": (
        lambda: TokenStream(np.zeros((20, 2), dtype=np.int64), 2, 3),
        r"tokens are \[20, 2\], expected one row .* batchify",
    ),
    "tokens to evaluate in two dimensions": (
        lambda: evaluation_chunks(torch.zeros(20, 2, dtype=torch.long), 2, 3),
        r"tokens are \[20, 2\], expected one row",
    ),
    "float tokens": (lambda: TokenStream(np.zeros(20), 2, 3), "tokens are of float64"),
    "too few tokens": (lambda: TokenStream([1, 2], 2, 3), "2 tokens for 2 rows"),
    "no rows": (lambda: TokenStream([1, 2, 3], 0, 3), "batch_size is 0"),
    "half a row": (lambda: TokenStream([1, 2, 3], 1.5, 3), r"batch_size is 1\.5"),
    "chunks of no steps": (lambda: TokenStream([1, 2, 3], 1, 0), "chunk_len is 0"),
    "a word for the chunk length": (lambda: TokenStream([1, 2, 3], 1, "4"), "chunk_len is 4"),
    # learners and hierarchies
    "a learner's synthesizer that nothing trains": (
        lambda: flat_training(sgd(model()), boundary=Boundary(MLPSynthesizer(4))),
        "no optimizer",
    ),
    "a learner with a negative clip": (
        lambda: flat_training(sgd(model()), clip=-1.0),
        "clip is -1",
    ),
    "a learner with a fractional chunk": (
        lambda: flat_training(sgd(model()), chunk_len=2.5),
        r"chunk_len is 2\.5",
    ),
    "a learner with an infinite scale": (
        lambda: flat_training(sgd(model()), loss_scale=math.inf),
        "loss_scale is inf",
    ),
    "a learner with a negative warmup": (
        lambda: flat_training(sgd(model()), boundary=Boundary(LeastSquares(4)), warmup_chunks=-1),
        "warmup_chunks is -1",
    ),
    "a learner with another word": (
        lambda: flat_training(sgd(model()), non_finite="ignore"),
        "non_finite is 'ignore'",
    ),
}


def errors() -> dict[str, tuple[str, str]]:
    """The type and the text of each error; empty where there was none."""
    found = {}
    for name, (mistake, _) in REFUSED.items():
        try:
            mistake()
            found[name] = ("", "")
        except Exception as error:
            found[name] = (type(error).__name__, str(error))
    return found


if __name__ == "__main__":
    print(json.dumps(errors()))
