"""seqdni: train RNNs by truncated BPTT with synthetic gradients at the chunk boundaries."""

from seqdni import controls
from seqdni.adaptive import AdaptiveReadout
from seqdni.boundary import Boundary, bootstrap_term
from seqdni.checkpointed import Checkpointed
from seqdni.chunk import Chunk, ChunkLike, whole_episodes
from seqdni.core import Core, TorchCore, TraceableCore, unroll, unroll_traced
from seqdni.hierarchy import Hierarchy
from seqdni.hierarchy_chunk import HierarchyChunk
from seqdni.hierarchy_trainer import HierarchyTrainer
from seqdni.horizon import Agreement, Horizon, Lag, measure_horizon
from seqdni.learner import Learner
from seqdni.least_squares import LeastSquares
from seqdni.level_trainer import LevelTraining
from seqdni.load import load
from seqdni.look_ahead import look_ahead
from seqdni.losses import cross_entropy as cross_entropy
from seqdni.losses import masked_sum, squared_error, to_bits, to_perplexity
from seqdni.meter import Meter
from seqdni.model import OneHot, SequenceModel
from seqdni.overlap import Overlap
from seqdni.predictor import Predictor
from seqdni.random_truncation import RandomTruncation, Reweighted
from seqdni.stack import LockedDropout, Stack, without_dropout
from seqdni.state import (
    LSTMState,
    State,
    cut,
    detach,
    leaves,
    map_state,
    pack,
    reset_rows,
    state_size,
    target_grad,
    unpack,
)
from seqdni.synthesizer import Synthesizer
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.timescale import Timescale
from seqdni.traced import Trace
from seqdni.trainer import Model, Trainer
from seqdni.whitening import Whitening

__version__ = "0.1.0.dev0"

# cross_entropy is not among them: `from seqdni import *` must not hide torch's own.
__all__ = [
    "AdaptiveReadout",
    "Agreement",
    "Boundary",
    "Checkpointed",
    "Chunk",
    "ChunkLike",
    "Core",
    "Hierarchy",
    "HierarchyChunk",
    "HierarchyTrainer",
    "Horizon",
    "LSTMState",
    "Lag",
    "Learner",
    "LeastSquares",
    "LevelTraining",
    "LockedDropout",
    "Meter",
    "Model",
    "OneHot",
    "Overlap",
    "Predictor",
    "RandomTruncation",
    "Reweighted",
    "SequenceModel",
    "Stack",
    "State",
    "Synthesizer",
    "SyntheticGradients",
    "Timescale",
    "TorchCore",
    "Trace",
    "TraceableCore",
    "Trainer",
    "Whitening",
    "bootstrap_term",
    "controls",
    "cut",
    "detach",
    "leaves",
    "load",
    "look_ahead",
    "map_state",
    "masked_sum",
    "measure_horizon",
    "pack",
    "reset_rows",
    "squared_error",
    "state_size",
    "target_grad",
    "to_bits",
    "to_perplexity",
    "unpack",
    "unroll",
    "unroll_traced",
    "whole_episodes",
    "without_dropout",
]
