"""Prepared images: what was decoded once comes back the same, and nothing else is taken for it."""

import pytest
import torch
from safetensors.torch import save_file

from weightcast_lab.training import Images, load_images, save_images


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)

    def split(n):
        pixels = torch.randint(256, (n, 3, 4, 5), generator=generator)
        return pixels / 255, torch.randint(4, (n,), generator=generator)

    train = split(20)
    train[1][:4] = torch.arange(4)
    return Images("a name, with (signs)", train, None, split(6), 4)


def test_images_come_back_bit_for_bit(tmp_path, images):
    file = save_images(images, tmp_path / "new" / "images.safetensors")
    read = load_images(str(file))
    assert read.name == images.name
    assert read.n_classes == 4
    for mine, theirs in ((read.train, images.train), (read.test, images.test)):
        assert mine[0].equal(theirs[0])
        assert mine[1].equal(theirs[1])


def test_validation_images_are_those_of_the_data_itself(tmp_path):
    file = save_images(load_images("digits"), tmp_path / "digits.safetensors")
    prepared, packaged = (load_images(s, n_validation=500) for s in (str(file), "digits"))
    assert prepared.validation[0].equal(packaged.validation[0])
    assert prepared.train[1].equal(packaged.train[1])


def test_a_file_takes_a_byte_per_pixel(tmp_path, images):
    file = save_images(images, tmp_path / "images.safetensors")
    assert file.stat().st_size < 26 * 60 + 26 * 8 + 1000


def test_standardised_images_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match=r"pixels run from -\d.*before\s+they are standardised"):
        save_images(images.standardised(), tmp_path / "images.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(tmp_path, images):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_images(images, tmp_path / "images.bin")


def test_a_validation_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="7 images are set aside"):
        save_images(load_images("digits", n_validation=7), tmp_path / "images.safetensors")


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None])
def test_other_files_are_refused(tmp_path, content):
    file = tmp_path / "other.safetensors"
    if content is None:
        save_file({"train_x": torch.zeros(3)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.safetensors.*prepare its images anew"):
        load_images(str(file))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the prepared images"):
        load_images(str(tmp_path / "none.safetensors"))


def test_fewer_images_are_always_the_same_ones(images):
    fewer = images.fewer(7)
    assert len(fewer.train[1]) == 7
    assert fewer.train[0].equal(images.fewer(7).train[0])
    known = {tuple(x.flatten().tolist()) for x in images.train[0]}
    assert {tuple(x.flatten().tolist()) for x in fewer.train[0]} <= known
    with pytest.raises(ValueError, match=r"n_train is 21: .* has 20 training images"):
        images.fewer(21)
