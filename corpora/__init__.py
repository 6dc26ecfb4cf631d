"""Data for the recipes: episodic tasks, and text as streams of characters."""

from corpora.batch import Batch
from corpora.cache import Encoded, encode_splits
from corpora.characters import CharVocabulary
from corpora.copying import CopyTask, RepeatCopyTask
from corpora.curriculum import next_level
from corpora.episodes import BackToBackEpisodes, LockstepEpisodes
from corpora.errors import CorpusError
from corpora.stream import TokenStream, evaluation_chunks
from corpora.task import Episode, EpisodicTask, Level
from corpora.text import Text, file_text, ptb_text, pydoc_text

__all__ = [
    "BackToBackEpisodes",
    "Batch",
    "CharVocabulary",
    "CopyTask",
    "CorpusError",
    "Encoded",
    "Episode",
    "EpisodicTask",
    "Level",
    "LockstepEpisodes",
    "RepeatCopyTask",
    "Text",
    "TokenStream",
    "encode_splits",
    "evaluation_chunks",
    "file_text",
    "next_level",
    "ptb_text",
    "pydoc_text",
]
