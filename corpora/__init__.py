"""Data for the recipes: episodic tasks, images as sequences, and text as streams of characters."""

from corpora.adding import AddingTask
from corpora.batch import Batch
from corpora.cache import Encoded, encode_splits
from corpora.characters import CharVocabulary
from corpora.copying import CopyTask, RepeatCopyTask
from corpora.curriculum import next_level
from corpora.episodes import BackToBackEpisodes, LockstepEpisodes
from corpora.errors import CorpusError
from corpora.mnist import Images, Mnist, MnistTask, pixel_order, read_mnist
from corpora.recall import RecallTask
from corpora.shuffled import ShuffledImages
from corpora.stream import TokenStream, evaluation_chunks
from corpora.task import Episode, EpisodicTask, Level
from corpora.text import Text, file_text, ptb_text, pydoc_text

__all__ = [
    "AddingTask",
    "BackToBackEpisodes",
    "Batch",
    "CharVocabulary",
    "CopyTask",
    "CorpusError",
    "Encoded",
    "Episode",
    "EpisodicTask",
    "Images",
    "Level",
    "LockstepEpisodes",
    "Mnist",
    "MnistTask",
    "RecallTask",
    "RepeatCopyTask",
    "ShuffledImages",
    "Text",
    "TokenStream",
    "encode_splits",
    "evaluation_chunks",
    "file_text",
    "next_level",
    "pixel_order",
    "ptb_text",
    "pydoc_text",
    "read_mnist",
]
