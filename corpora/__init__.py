"""Data for the recipes: episodic tasks, and text as streams of characters, words or subwords."""

from seqdni.corpora.batch import Batch
from seqdni.corpora.errors import CorpusError
from seqdni.corpora.tasks.adding import AddingTask
from seqdni.corpora.tasks.copy_memory import CopyMemoryTask
from seqdni.corpora.tasks.copying import CopyTask, RepeatCopyTask
from seqdni.corpora.tasks.count_digits import (
    COUNTED,
    CountDigits,
    Digits,
    read_small_digits,
    render_digits,
)
from seqdni.corpora.tasks.curriculum import next_difficulty
from seqdni.corpora.tasks.episodes import BackToBackEpisodes, LockstepEpisodes
from seqdni.corpora.tasks.mnist import Images, Mnist, MnistTask, pixel_order, read_mnist
from seqdni.corpora.tasks.recall import RecallTask
from seqdni.corpora.tasks.shuffled_images import ShuffledImages
from seqdni.corpora.tasks.task import Difficulty, Episode, EpisodicTask
from seqdni.corpora.tasks.whole_image import WholeImage
from seqdni.corpora.text.cache import Encoded, encode_splits
from seqdni.corpora.text.characters import Characters, CharVocabulary
from seqdni.corpora.text.from_torchtext import (
    from_torchtext,
    import_torchtext,
    torchtext_vocabulary,
)
from seqdni.corpora.text.penn_treebank import ptb_lines, ptb_text
from seqdni.corpora.text.remarks import remarks
from seqdni.corpora.text.size import Size, scored_size, size_of
from seqdni.corpora.text.source import Source, Stretch, blocks
from seqdni.corpora.text.stream import TokenStream, evaluation_chunks
from seqdni.corpora.text.subwords import Subwords, SubwordVocabulary
from seqdni.corpora.text.text import Text, own_splits, own_text, pydoc_text
from seqdni.corpora.text.vocabulary import KnownVocabulary, Tokens, Vocabulary, vocabulary_from
from seqdni.corpora.text.wikipedia import enwik8_text, text8_text, wikitext_text
from seqdni.corpora.text.words import Words, WordVocabulary

__all__ = [
    "COUNTED",
    "AddingTask",
    "BackToBackEpisodes",
    "Batch",
    "CharVocabulary",
    "Characters",
    "CopyMemoryTask",
    "CopyTask",
    "CorpusError",
    "CountDigits",
    "Difficulty",
    "Digits",
    "Encoded",
    "Episode",
    "EpisodicTask",
    "Images",
    "KnownVocabulary",
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
    "WholeImage",
    "WordVocabulary",
    "Words",
    "blocks",
    "encode_splits",
    "enwik8_text",
    "evaluation_chunks",
    "from_torchtext",
    "import_torchtext",
    "next_difficulty",
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
