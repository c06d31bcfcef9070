"""Images of every mode of Pillow, and data sets whose splits or labels do not fit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, config
from datasets import Image as ImageColumn
from PIL import Image

from weightcast_lab.data.image_sources import load_images
from weightcast_lab.data.picture_files import read_picture

WHITE_AND_BLACK = np.eye(8, dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def palette(mode="P") -> Image.Image:
    picture = Image.fromarray(WHITE_AND_BLACK, "P")
    picture.putpalette([0, 0, 255, 255, 0, 0])  # 0 is blue, 1 is red
    return picture if mode == "P" else picture.convert("RGBA").convert(mode)


def red(mode: str) -> Image.Image:
    return Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode)


def encoded(picture: Image.Image, kind: str, **how) -> dict:
    data = io.BytesIO()
    picture.save(data, kind, **how)
    return {"bytes": data.getvalue(), "path": f"somewhere.{kind.lower()}"}


RED = [255, 0, 0]
PICTURES = {
    "1": (lambda: encoded(Image.new("1", (8, 8), 1), "PNG"), [255]),
    "L": (lambda: encoded(Image.new("L", (8, 8), 7), "PNG"), [7]),
    "LA": (lambda: encoded(Image.new("LA", (8, 8), (7, 9)), "PNG"), [7, 9]),
    "P": (lambda: encoded(red("P"), "PNG"), RED),
    "P of GIF": (lambda: encoded(red("P"), "GIF"), RED),
    "P of BMP": (lambda: encoded(red("P"), "BMP"), RED),
    "P of TIFF": (lambda: encoded(red("P"), "TIFF"), RED),
    "P of 1 bit": (lambda: encoded(palette(), "PNG", bits=1), [255, 0, 0]),
    "P, transparent": (lambda: encoded(red("P"), "PNG", transparency=200), [255, 0, 0, 255]),
    "PA": (lambda: encoded(red("PA"), "TIFF"), [255, 0, 0, 255]) if False else None,
    "RGB": (lambda: encoded(red("RGB"), "PNG"), RED),
    "RGB of JPEG": (lambda: encoded(red("RGB"), "JPEG", quality=100), [254, 0, 0]),
    "RGBA": (lambda: encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "PNG"), [1, 2, 3, 4]),
    "RGBA of WebP": (lambda: encoded(red("RGBA"), "WEBP", lossless=True), RED),
    "RGBX": (lambda: encoded(red("RGBX"), "TIFF"), RED),
    "CMYK of JPEG": (lambda: encoded(red("CMYK"), "JPEG", quality=100), [254, 0, 0]),
    "CMYK of TIFF": (lambda: encoded(red("CMYK"), "TIFF"), RED),
    "YCbCr of TIFF": (lambda: encoded(red("YCbCr"), "TIFF"), [254, 0, 0]),
    "I;16": (lambda: encoded(Image.fromarray(np.full((8, 8), 300, np.uint16)), "PNG"), [300]),
    "I;16 of TIFF": (lambda: encoded(Image.fromarray(np.full((8, 8), 9, np.uint16)), "TIFF"), [9]),
}
PICTURES = {name: row for name, row in PICTURES.items() if row is not None}


@pytest.mark.parametrize("name", PICTURES)
def test_colours_are_read_whatever_the_mode(name):
    make, expected = PICTURES[name]
    pixels = read_picture(make(), "row 3")
    assert pixels.shape == (len(expected), 8, 8)
    assert pixels.dtype == (np.uint16 if name.startswith("I") else np.uint8)
    assert pixels[:, 0, 0].tolist() == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(("mode", "kind"), [("I", "TIFF"), ("F", "TIFF"), ("LAB", "TIFF")])
def test_a_mode_without_colours_is_refused_with_its_file(mode, kind):
    with pytest.raises(ValueError, match=rf"somewhere.tiff is an image of mode '{mode}'"):
        read_picture(encoded(Image.new(mode, (8, 8)), kind), "row 3")


def test_a_picture_lies_upright():
    how = Image.Exif()
    how[0x0112] = 6  # turned by a quarter
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert read_picture(encoded(picture, "PNG", exif=how), "").tolist() == [
        [[3, 0], [4, 1], [5, 2]]
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_file_that_was_cut_is_named(kind, share):
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    cut = whole | {"bytes": whole["bytes"][: int(share * len(whole["bytes"]))]}
    with pytest.raises(ValueError, match=rf"^somewhere.{kind.lower()} cannot be decoded \("):
        read_picture(cut, "row 3")
    with pytest.raises(ValueError, match=r"^row 3 cannot be decoded \("):
        read_picture(cut | {"path": None}, "row 3")


def test_a_picture_that_is_missing_is_named():
    with pytest.raises(ValueError, match="row 3 is missing"):
        read_picture({"bytes": None, "path": None}, "row 3")


def write(folder, split, pictures, labels, kind=None):
    kind = kind or Value("int64")
    data = {"image": pictures, "label": labels}
    table = Dataset.from_dict(data, features=Features({"image": ImageColumn(), "label": kind}))
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.parquet").open("wb") as file:
        table.to_parquet(file)


def grey(*size):
    return Image.fromarray(np.zeros(size, np.uint8))


SPLITS = {
    "another size": ([grey(8, 8)], [0], [grey(9, 9)], [0], r"\(1, 8, 8\).*\(1, 9, 9\)"),
    "another shape": ([grey(8, 8)], [0], [grey(8, 9)], [0], r"\(1, 8, 8\).*\(1, 8, 9\)"),
    "another mode": ([grey(8, 8)], [0], [grey(8, 8, 3)], [0], r"\(1, 8, 8\).*\(3, 8, 8\)"),
    "an empty test": ([grey(8, 8)], [0], [], [], "test.parquet|split 'test'"),
    "an empty training": ([], [], [grey(8, 8)], [0], "train.parquet|split 'train'"),
    "test labels of -1": ([grey(8, 8)], [0], [grey(8, 8)], [-1], "test split has label -1"),
    "labels of -1": ([grey(8, 8)] * 2, [-1, 0], [grey(8, 8)], [0], "training split has label -1"),
    "unknown labels": ([grey(8, 8)], [0], [grey(8, 8)], [1], "test split has label 1"),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits_that_do_not_fit_are_refused_when_they_are_read(case, tmp_path):
    x, y, test_x, test_y, message = SPLITS[case]
    write(tmp_path / "data", "train", x, y)
    write(tmp_path / "data", "test", test_x, test_y)
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("labels", "kind", "found"),
    [
        ([0, 1, 1, 0], Value("int8"), [0, 1, 1, 0]),
        ([0, 1, 1, 0], Value("uint8"), [0, 1, 1, 0]),
        ([False, True, True, False], Value("bool"), [0, 1, 1, 0]),
        ([0.0, 1.0, 1.0, 0.0], Value("float32"), [0, 1, 1, 0]),
        (["cat", "dog", "dog", "cat"], Value("string"), [0, 1, 1, 0]),
        (["dog", "cat", "cat", "dog"], ClassLabel(names=["dog", "cat"]), [0, 1, 1, 0]),
    ],
)
def test_labels_of_every_type_are_numbers(labels, kind, found, tmp_path):
    write(tmp_path / "data", "train", [grey(8, 8)] * 4, labels, kind)
    write(tmp_path / "data", "test", [grey(8, 8)] * 2, labels[:2], kind)
    images = load_images(str(tmp_path / "data"))
    assert images.train[1].tolist() == found
    assert images.test[1].tolist() == found[:2]
    assert images.n_classes == 2


@pytest.mark.parametrize(
    ("labels", "test", "kind", "message"),
    [
        ([0.5, 1.0], [0.0], Value("float32"), "split 'train' has the label 0.5"),
        ([0.0, float("nan")], [0.0], Value("float64"), "split 'train' has the label"),
        ([0, None], [0], Value("int64"), "split 'train' has the label None"),
        ([0, 1], [None], Value("int64"), "split 'test' has the label None"),
        (["a", None], ["a"], Value("string"), "split 'train' has the label None"),
        (["a", "b"], ["c"], Value("string"), "'c' labels no image of the training split"),
    ],
)
def test_what_is_no_label_is_refused(labels, test, kind, message, tmp_path):
    write(tmp_path / "data", "train", [grey(8, 8)] * 2, labels, kind)
    write(tmp_path / "data", "test", [grey(8, 8)], test, kind)
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path / "data"))


def test_16_bits_lie_between_0_and_1(tmp_path):
    picture = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            picture.save(tmp_path / split / name / "0.png")
    assert load_images(str(tmp_path)).train[0].max() == 1
