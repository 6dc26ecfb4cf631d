"""Data for the recipes: episodic tasks, and text as streams of characters, words or subwords."""

from corpora.adding import AddingTask
from corpora.batch import Batch
from corpora.cache import Encoded, encode_splits
from corpora.characters import Characters, CharVocabulary
from corpora.copying import CopyTask, RepeatCopyTask
from corpora.count_digits import COUNTED, CountDigits, Digits, read_small_digits, render_digits
from corpora.curriculum import next_level
from corpora.episodes import BackToBackEpisodes, LockstepEpisodes
from corpora.errors import CorpusError
from corpora.from_torchtext import from_torchtext, import_torchtext, torchtext_vocabulary
from corpora.mnist import Images, Mnist, MnistTask, pixel_order, read_mnist
from corpora.penn_treebank import ptb_lines, ptb_text
from corpora.recall import RecallTask
from corpora.remarks import remarks
from corpora.shuffled import ShuffledImages
from corpora.size import Size, scored_size, size_of
from corpora.source import Source, Stretch, blocks
from corpora.stream import TokenStream, evaluation_chunks
from corpora.subwords import Subwords, SubwordVocabulary
from corpora.task import Episode, EpisodicTask, Level
from corpora.text import Text, own_splits, own_text, pydoc_text
from corpora.vocabulary import KnownVocabulary, Tokens, Vocabulary, vocabulary_from
from corpora.wikipedia import enwik8_text, text8_text, wikitext_text
from corpora.words import Words, WordVocabulary

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
