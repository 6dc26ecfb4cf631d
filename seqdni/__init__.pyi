"""seqdni: train RNNs by truncated BPTT with synthetic gradients at the chunk boundaries."""

from .audit import Audit
from .boundary import Boundary, bootstrap_term
from .chunk import Chunk, ChunkLike, whole_episodes
from .cores.activation_checkpointing import Checkpointed
from .cores.adaptive_softmax import AdaptiveReadout
from .cores.base import Core, TorchCore, TraceableCore, unroll, unroll_traced
from .cores.lru import LRU
from .cores.model import OneHot, SequenceModel
from .cores.stack import LockedDropout, Stack, without_dropout
from .cores.state_gradients import Trace
from .cores.unit_steps import Source, UnitSteps
from .feedforward.layer_trainer import LayerTrainer
from .feedforward.stage_processes import train_in_processes
from .feedforward.stage_threads import train_in_threads
from .feedforward.stage_worker import Span
from .feedforward.synthetic_input import SyntheticInput
from .finished_run import load
from .hierarchy.chunk import HierarchyChunk
from .hierarchy.level import Level
from .hierarchy.level_processes import Waited, train_levels_in_processes
from .hierarchy.level_trainer import LevelTraining
from .hierarchy.model import Hierarchy
from .hierarchy.trainer import HierarchyTrainer
from .horizon import Agreement, Horizon, Lag, measure_horizon
from .learner import Learner
from .losses import cross_entropy as cross_entropy
from .losses import masked_sum, squared_error, to_bits, to_perplexity
from .metrics import RunningSums
from .parallel import DataParallel
from .state import (
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
from .synthesizers import controls
from .synthesizers.base import CapturableSynthesizer, Synthesizer
from .synthesizers.convolutional import ConvSynthesizer
from .synthesizers.critic import Critic
from .synthesizers.least_squares import LeastSquares
from .synthesizers.mlp import MLPSynthesizer
from .synthesizers.whitening import Whitening
from .synthetic_gradients import SyntheticGradients
from .trainer import Trainer
from .trainer_parts import Model
from .truncation.influence import Influence, UnitwiseCore
from .truncation.look_ahead import look_ahead
from .truncation.overlap import Overlap
from .truncation.random_truncation import RandomTruncation, Reweighted

__version__: str

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
