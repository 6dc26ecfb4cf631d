"""An endless stream over a fixed set of images, in a new random order in each epoch.

Shapes: T steps of a chunk, L steps of an episode, B rows, n images.
"""

from typing import Any, Protocol, runtime_checkable

import torch

from seqdni.corpora.batch import Batch
from seqdni.corpora.tasks.episodes import in_step
from seqdni.corpora.tasks.mnist import Images
from seqdni.corpora.tasks.task import Episode, check_at_least_one


@runtime_checkable
class ImageTask(Protocol):
    """What the stream needs of a task: it makes episodes of images."""

    def episode(self, images: Images) -> Episode:
        """An episode with a row for each image."""
        ...


class ShuffledImages:
    """A stream in which all rows read an image each, from its first step to its last, and so on.

    An epoch goes through the images in a new random order, B at a time. The n % B images at its end
    are left out, which are other ones in each epoch. The last chunk of an episode may be shorter.

    Args:
        task: makes an episode of an image.
        images: at least `batch_size`.
        batch_size: number of rows, >= 1.
        chunk_len: steps of a chunk, >= 1; None: a chunk is a whole episode.
        seed: of the stream's own generator; any integer that torch takes.

    Raises:
        ValueError: a size is below 1, or there are fewer images than rows.

    Example:
        >>> from seqdni.corpora import MnistTask
        >>> images = Images(torch.zeros(5, 784, dtype=torch.uint8), torch.arange(5))
        >>> stream = ShuffledImages(MnistTask(by="row"), images, 2, chunk_len=20, seed=0)
        >>> [next(stream).inputs.shape for _ in range(2)]
        [torch.Size([20, 2, 28]), torch.Size([8, 2, 28])]
    """

    def __init__(
        self, task: ImageTask, images: Images, batch_size: int, chunk_len: int | None, seed: int
    ):
        check_at_least_one("batch_size", batch_size)
        check_at_least_one("chunk_len", 1 if chunk_len is None else chunk_len)
        if batch_size > len(images.labels_n):
            raise ValueError(
                f"batch_size is {batch_size}, expected at most the {len(images.labels_n)} images"
            )
        self.batch_size = batch_size
        self.chunk_len = chunk_len
        self.epoch = 0
        self._task = task
        self._images = images
        self._generator = torch.Generator().manual_seed(seed)
        self._batch = 0  # of the epoch
        self._position = 0  # of the next chunk's first step in its episode
        self._begin_epoch()

    def __iter__(self) -> "ShuffledImages":
        return self

    def __next__(self) -> Batch:
        if self._position == 0:
            self._episode = self._draw()
        chunk = self._from_here(self.chunk_len)
        self._position = (self._position + len(chunk.inputs)) % len(self._episode.inputs_LB)
        if self._position == 0:
            self._batch += 1
            if (self._batch + 1) * self.batch_size > len(self._order):
                self.epoch += 1
                self._begin_epoch()
        return chunk

    def peek(self, steps: int) -> Batch | None:
        """The next steps of the images, without moving on in the stream.

        Args:
            steps: how many, >= 1.

        Returns:
            The first steps of the next chunk, fewer where the images end; None where the next step
            begins other images.
        """
        return None if self._position == 0 else self._from_here(steps)

    def state_dict(self) -> dict[str, Any]:
        """Primitives and tensors that continue the stream exactly, mid-episode too."""
        return {
            "generator": self._before_epoch,
            "epoch": self.epoch,
            "batch": self._batch,
            "position": self._position,
            "images": len(self._order),
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError where it is of other numbers of images or rows."""
        for name, ours in (("images", len(self._order)), ("batch_size", self.batch_size)):
            if state[name] != ours:
                raise ValueError(
                    f"the state is of a stream with {name} {state[name]}, this one has {ours}: "
                    "resume with the data and the batch_size that it was saved with"
                )
        self._generator.set_state(state["generator"])
        self.epoch = state["epoch"]
        self._begin_epoch()
        self._batch, self._position = state["batch"], state["position"]
        if self._position:
            self._episode = self._draw()

    def _from_here(self, most: int | None) -> Batch:
        piece, ends = self._episode.part(self._position, most)
        return in_step(piece, starts=self._position == 0, ends=ends)

    def _begin_epoch(self) -> None:
        self._before_epoch = self._generator.get_state()
        self._order = torch.randperm(len(self._images.labels_n), generator=self._generator)
        self._batch = 0

    def _draw(self) -> Episode:
        first = self._batch * self.batch_size
        chosen_B = self._order[first : first + self.batch_size]
        return self._task.episode(Images(*(part[chosen_B] for part in self._images)))
