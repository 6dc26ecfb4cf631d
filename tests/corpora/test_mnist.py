import hashlib
import io
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_mnist import accept_tiny_mnist, idx, write_tiny_mnist

from seqdni.corpora import CorpusError, Images, MnistTask, ShuffledImages, pixel_order, read_mnist

REAL = Path(__file__).parents[2].parent / "shared/data/mnist"


def random_images(count: int) -> Images:
    """Different ones, labelled by their number."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 784), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    accept_tiny_mnist(monkeypatch)
    return write_tiny_mnist(tmp_path / "mnist")


def test_splits_of_a_tiny_folder(folder, tmp_path):
    data = read_mnist(folder)
    assert [len(split.labels_n) for split in data[:3]] == [40, 20, 20]
    assert data.train.labels_n[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.valid.pixels_nP.dtype == torch.uint8
    rows = data.valid.pixels_nP.view(20, 28, 28)
    assert torch.equal(rows[3].nonzero()[:, 0].unique(), torch.tensor([10]))
    plain = read_mnist(write_tiny_mnist(tmp_path / "plain", compress=False))
    assert plain.digest == data.digest
    assert all(torch.equal(a, b) for a, b in zip(plain.train, data.train, strict=True))


def test_the_digest_tells_other_data(folder):
    before = read_mnist(folder).digest
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(20)))
    assert read_mnist(folder).digest != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3", np.zeros((59, 28, 28)), r"\[59, 28, 28\], expected \[60, 28, 28\]"),
        ("t10k-images-idx3", np.zeros((20, 28, 27)), r"\[20, 28, 27\], expected \[20, 28, 28\]"),
        ("t10k-labels-idx1", np.zeros(19), "19 labels for 20 images"),
        ("train-labels-idx1", np.full(60, 10), r"a label is 10, expected 0\.\.9"),
        ("train-labels-idx1", np.zeros((60, 28, 28)), "magic number 00000803, expected 00000801"),
        ("train-labels-idx1", None, "neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte"),
    ],
)
def test_a_wrong_file_is_named(name, content, message, folder):
    (folder / f"{name}-ubyte.gz").unlink()
    if content is not None:
        (folder / f"{name}-ubyte").write_bytes(idx(content))
    with pytest.raises(CorpusError, match=message) as error:
        read_mnist(folder)
    assert str(folder) in str(error.value)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(CorpusError, match="no such folder"):
        read_mnist(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="not a folder"):
        read_mnist(tmp_path / "file")


def test_the_permutation_is_pinned():
    order = pixel_order(0)
    assert sorted(order) == list(range(784))
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest == "3aa79b80c498bc4ee33c62762c6895443a58f28229ef2110a17c016a0653f9d5"
    assert not np.array_equal(order, pixel_order(1))


@pytest.mark.parametrize(
    ("by", "shape"), [("pixel", (784, 3, 1)), ("row", (28, 3, 28)), (7, (112, 3, 7))]
)
@pytest.mark.parametrize("permute_seed", [None, 5])
def test_an_episode_reads_every_pixel_in_order(by, shape, permute_seed):
    images = random_images(3)
    task = MnistTask(by, permute_seed)
    inputs, targets, mask = task.episode(images)
    assert inputs.shape == shape
    assert task.input_size == shape[2]
    assert inputs.dtype == torch.float32
    assert (inputs.min(), inputs.max()) == (0, 1)
    order = np.arange(784) if permute_seed is None else pixel_order(permute_seed)
    for row in range(3):
        read = inputs[:, row].flatten()
        assert torch.equal(read, images.pixels_nP[row, order].float() / 255)
    assert targets[-1].tolist() == [0, 1, 2]
    assert mask.nonzero()[:, 0].unique().tolist() == [shape[0] - 1]


def test_no_other_way_to_read():
    with pytest.raises(ValueError, match="by is 'column', expected 'pixel', 'row', or a number"):
        MnistTask("column")


@pytest.mark.parametrize("task", [MnistTask("row"), MnistTask("pixel", permute_seed=3)])
def test_render_puts_the_image_back_in_order(task):
    pixels = torch.zeros(1, 28, 28, dtype=torch.uint8)
    pixels[0, 2, 1:3] = torch.tensor([255, 128])
    episode = task.episode(Images(pixels.view(1, 784), torch.tensor([7])))
    columns = [field[:, 0] for field in episode]
    lines = task.render(*columns, torch.full_like(columns[1], 1)).splitlines()
    assert lines == [*[""] * 2, "  @@++", *[""] * 25, "target  7", "output  1  wrong"]
    assert task.render(*columns).splitlines()[-1] == "target  7"


def images_of(chunks, images):
    """The numbers of the images that the episodes of row after row were."""
    return [chunk.targets[-1].tolist() for chunk in chunks if chunk.mask[-1].all()]


@pytest.mark.parametrize("chunk_len", [None, 5, 28, 40])
def test_an_epoch_has_each_image_once_in_a_new_order(chunk_len):
    images = random_images(13)
    stream = ShuffledImages(MnistTask("row"), images, 4, chunk_len, seed=0)
    a_chunk = min(chunk_len or 28, 28)
    chunks = list(islice(stream, 3 * 3 * -(-28 // a_chunk)))
    assert stream.epoch == 3
    epochs = torch.tensor(images_of(chunks, images)).view(3, 12)
    assert all(len(set(epoch)) == 12 for epoch in epochs.tolist())
    assert not torch.equal(epochs[0], epochs[1])
    whole = MnistTask("row").episode(Images(images.pixels_nP[epochs[0, :4]], epochs[0, :4]))
    episode = chunks[: -(-28 // a_chunk)]
    for i in range(3):
        assert torch.equal(torch.cat([chunk[i] for chunk in episode]), whole[i])
    resets = torch.cat([chunk.should_reset[:-1] for chunk in chunks])
    assert resets.all(1).nonzero().flatten().tolist() == list(range(0, 9 * 28, 28))
    assert resets.any(1).sum() == 9
    for chunk, following in pairwise(chunks):
        assert torch.equal(chunk.should_reset[-1], following.should_reset[0])


def test_only_the_seed_decides():
    state = torch.get_rng_state()
    images = random_images(50)
    streams = [ShuffledImages(MnistTask("row"), images, 4, None, seed) for seed in (1, 1, 2)]
    first, again, other = (images_of(islice(stream, 6), images) for stream in streams)
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


@given(stop=st.integers(0, 40), chunk_len=st.sampled_from([3, 9, 28]))
@settings(max_examples=20, deadline=None)
def test_resume_at_any_chunk_is_identical(stop, chunk_len):
    images, task = random_images(9), MnistTask("row", permute_seed=0)
    straight = ShuffledImages(task, images, 4, chunk_len, seed=7)
    list(islice(straight, stop))
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = ShuffledImages(task, images, 4, chunk_len, seed=99)
    next(resumed)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2 * -(-28 // chunk_len) * 2 + 3):  # beyond an epoch's end
        ours, theirs = next(resumed), next(straight)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert resumed.epoch == straight.epoch


def test_peeking_shows_the_next_steps_and_moves_nothing():
    images, task = random_images(9), MnistTask("row")
    stream, whole = (ShuffledImages(task, images, 4, size, seed=3) for size in (10, None))
    assert stream.peek(6) is None
    for _ in range(3):
        episode = next(whole)
        for begin, end, over in ((10, 16, False), (20, 26, False)):
            next(stream)
            seen = stream.peek(6)
            for field, theirs in zip(seen[:3], episode, strict=False):
                assert torch.equal(field, theirs[begin:end])
            assert bool(seen.should_reset.any()) is over
        assert len(stream.peek(30).inputs) == 8
        assert stream.peek(30).should_reset.all(1).nonzero().flatten().tolist() == [8]
        assert torch.equal(next(stream).inputs, episode.inputs[20:])
        assert stream.peek(6) is None


def test_streams_that_cannot_be():
    images, task = random_images(3), MnistTask("row")
    with pytest.raises(ValueError, match="batch_size is 0, expected >= 1"):
        ShuffledImages(task, images, 0, 4, seed=0)
    with pytest.raises(ValueError, match="chunk_len is 0, expected >= 1"):
        ShuffledImages(task, images, 1, 0, seed=0)
    with pytest.raises(ValueError, match="batch_size is 4, expected at most the 3 images"):
        ShuffledImages(task, images, 4, 4, seed=0)
    state = ShuffledImages(task, images, 2, 4, seed=0).state_dict()
    with pytest.raises(ValueError, match="a stream with batch_size 2, this one has 1"):
        ShuffledImages(task, images, 1, 4, seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match="a stream with images 3, this one has 5"):
        ShuffledImages(task, random_images(5), 2, 4, seed=0).load_state_dict(state)


def test_the_real_mnist():
    if not REAL.is_dir():
        pytest.skip("no MNIST beside the checkout (shared/data/mnist)")
    data = read_mnist(REAL)
    assert [len(split.labels_n) for split in data[:3]] == [55_000, 5_000, 10_000]
    assert data.test.labels_n[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.test.labels_n.bincount().max() == 1135
    mean = data.train.pixels_nP.float().mean() / 255
    assert mean.item() == pytest.approx(0.1307, abs=5e-4)
