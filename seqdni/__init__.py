"""seqdni: train RNNs by truncated BPTT with synthetic gradients at the chunk boundaries."""

from seqdni.audit import Audit
from seqdni.boundary import Boundary, bootstrap_term
from seqdni.chunk import Chunk, ChunkLike, whole_episodes
from seqdni.cores.activation_checkpointing import Checkpointed
from seqdni.cores.adaptive_softmax import AdaptiveReadout
from seqdni.cores.base import Core, TorchCore, TraceableCore, unroll, unroll_traced
from seqdni.cores.lru import LRU
from seqdni.cores.model import OneHot, SequenceModel
from seqdni.cores.stack import LockedDropout, Stack, without_dropout
from seqdni.cores.state_gradients import Trace
from seqdni.cores.unit_steps import Source, UnitSteps
from seqdni.feedforward.layer_trainer import LayerTrainer
from seqdni.feedforward.stage_processes import train_in_processes
from seqdni.feedforward.stage_threads import train_in_threads
from seqdni.feedforward.stage_worker import Span
from seqdni.feedforward.synthetic_input import SyntheticInput
from seqdni.hierarchy.chunk import HierarchyChunk
from seqdni.hierarchy.level import Level
from seqdni.hierarchy.level_processes import Waited, train_levels_in_processes
from seqdni.hierarchy.level_trainer import LevelTraining
from seqdni.hierarchy.model import Hierarchy
from seqdni.hierarchy.trainer import HierarchyTrainer
from seqdni.horizon import Agreement, Horizon, Lag, measure_horizon
from seqdni.learner import Learner
from seqdni.load import load
from seqdni.losses import cross_entropy as cross_entropy
from seqdni.losses import masked_sum, squared_error, to_bits, to_perplexity
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
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
from seqdni.synthesizers import controls
from seqdni.synthesizers.base import CapturableSynthesizer, Synthesizer
from seqdni.synthesizers.convolutional import ConvSynthesizer
from seqdni.synthesizers.critic import Critic
from seqdni.synthesizers.least_squares import LeastSquares
from seqdni.synthesizers.mlp import MLPSynthesizer
from seqdni.synthesizers.whitening import Whitening
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.trainer import Trainer
from seqdni.trainer_parts import Model
from seqdni.truncation.influence import Influence, UnitwiseCore
from seqdni.truncation.look_ahead import look_ahead
from seqdni.truncation.overlap import Overlap
from seqdni.truncation.random_truncation import RandomTruncation, Reweighted

__version__ = "0.1.0.dev0"

# cross_entropy is not among them: `from seqdni import *` must not hide torch's own.
__all__ = [
    "LRU",
    "AdaptiveReadout",
    "Agreement",
    "Audit",
    "Boundary",
    "CapturableSynthesizer",
    "Checkpointed",
    "Chunk",
    "ChunkLike",
    "ConvSynthesizer",
    "Core",
    "Critic",
    "DataParallel",
    "Hierarchy",
    "HierarchyChunk",
    "HierarchyTrainer",
    "Horizon",
    "Influence",
    "LSTMState",
    "Lag",
    "LayerTrainer",
    "Learner",
    "LeastSquares",
    "Level",
    "LevelTraining",
    "LockedDropout",
    "MLPSynthesizer",
    "Model",
    "OneHot",
    "Overlap",
    "RandomTruncation",
    "Reweighted",
    "RunningSums",
    "SequenceModel",
    "Source",
    "Span",
    "Stack",
    "State",
    "Synthesizer",
    "SyntheticGradients",
    "SyntheticInput",
    "TorchCore",
    "Trace",
    "TraceableCore",
    "Trainer",
    "UnitSteps",
    "UnitwiseCore",
    "Waited",
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
    "train_in_processes",
    "train_in_threads",
    "train_levels_in_processes",
    "unpack",
    "unroll",
    "unroll_traced",
    "whole_episodes",
    "without_dropout",
]
