"""Data for the recipes: episodic tasks, and text as streams of characters, words or subwords."""

from seqdni.corpora.adding import AddingTask
from seqdni.corpora.batch import Batch
from seqdni.corpora.cache import Encoded, encode_splits
from seqdni.corpora.characters import Characters, CharVocabulary
from seqdni.corpora.copying import CopyTask, RepeatCopyTask
from seqdni.corpora.count_digits import (
    COUNTED,
    CountDigits,
    Digits,
    read_small_digits,
    render_digits,
)
from seqdni.corpora.curriculum import next_level
from seqdni.corpora.episodes import BackToBackEpisodes, LockstepEpisodes
from seqdni.corpora.errors import CorpusError
from seqdni.corpora.from_torchtext import from_torchtext, import_torchtext, torchtext_vocabulary
from seqdni.corpora.mnist import Images, Mnist, MnistTask, pixel_order, read_mnist
from seqdni.corpora.penn_treebank import ptb_lines, ptb_text
from seqdni.corpora.recall import RecallTask
from seqdni.corpora.remarks import remarks
from seqdni.corpora.shuffled import ShuffledImages
from seqdni.corpora.size import Size, scored_size, size_of
from seqdni.corpora.source import Source, Stretch, blocks
from seqdni.corpora.stream import TokenStream, evaluation_chunks
from seqdni.corpora.subwords import Subwords, SubwordVocabulary
from seqdni.corpora.task import Episode, EpisodicTask, Level
from seqdni.corpora.text import Text, own_splits, own_text, pydoc_text
from seqdni.corpora.vocabulary import KnownVocabulary, Tokens, Vocabulary, vocabulary_from
from seqdni.corpora.wikipedia import enwik8_text, text8_text, wikitext_text
from seqdni.corpora.words import Words, WordVocabulary

__all__ = [
    "COUNTED",
    "AddingTask",
    "BackToBackEpisodes",
    "Batch",
    "CharVocabulary",
    "Characters",
    "CopyTask",
    "CorpusError",
    "CountDigits",
    "Digits",
    "Encoded",
    "Episode",
    "EpisodicTask",
    "Images",
    "KnownVocabulary",
    "Level",
    "LockstepEpisodes",
    "Mnist",
    "MnistTask",
    "RecallTask",
    "RepeatCopyTask",
    "ShuffledImages",
    "Size",
    "Source",
    "Stretch",
    "SubwordVocabulary",
    "Subwords",
    "Text",
    "TokenStream",
    "Tokens",
    "Vocabulary",
    "WordVocabulary",
    "Words",
    "blocks",
    "encode_splits",
    "enwik8_text",
    "evaluation_chunks",
    "from_torchtext",
    "import_torchtext",
    "next_level",
    "own_splits",
    "own_text",
    "pixel_order",
    "ptb_lines",
    "ptb_text",
    "pydoc_text",
    "read_mnist",
    "read_small_digits",
    "remarks",
    "render_digits",
    "scored_size",
    "size_of",
    "text8_text",
    "torchtext_vocabulary",
    "vocabulary_from",
    "wikitext_text",
]
