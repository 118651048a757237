"""What is left out of a folder is counted and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.listed import Listed
from moco_ray.data.sources import list_source
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from tests.data.small import png
from tests.data.test_sources import names, put


def listed(uri: str, leave_out: tuple[str, ...] = ()) -> Listed:
    return list_source(DataConfig(uri=uri), resolve_storage_options(uri, None), leave_out=leave_out)


def write(folder: Path, *files: str) -> str:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(len(name)))
    return str(folder)


EXTENSIONS = "jpg jpeg jpe jfif png apng bmp gif webp tif tiff ppm pgm pbm pnm tga jp2 j2k jpx avif"


@pytest.mark.parametrize("extension", [*EXTENSIONS.split(), "JFIF", "Pbm"])
def test_files_of_these_extensions_are_images(tmp_path: Path, extension: str) -> None:
    assert len(listed(write(tmp_path, f"a.{extension}")).train) == 1


def test_other_files_are_counted_by_extension_pictures_first(tmp_path: Path) -> None:
    files = [f"{i}.{end}" for i in range(3) for end in ("heic", "xyz", "PNG")] + [
        "1.dcm",
        "2.dcm",
        "bare",
        "a.zip",
        "l.csv",
    ]
    (said,) = listed(write(tmp_path, *files)).notes
    assert said.startswith(
        "left out: 3 .heic, 2 .dcm, 1 .zip, 1 without extension (bare), 3 .xyz, 1 .csv; unpack .zip first"
    )
    assert "convert HEIC pictures to JPEG" in said and "convert .dcm to PNG" in said and "data.uri names it" in said


def test_nothing_is_said_where_nothing_is_left_out(tmp_path: Path) -> None:
    assert listed(write(tmp_path, "a/0.png", "b/1.png")).notes == []


@pytest.mark.parametrize("archive", ["images.zip", "images.tar", "shard-000.tar.gz"])
def test_archives_are_named_with_what_to_do(tmp_path: Path, archive: str) -> None:
    write(tmp_path, archive)
    for uri in (tmp_path, tmp_path / archive):
        with pytest.raises(ValueError, match=r"unpack \.(zip|tar|gz) first"):
            listed(str(uri))


def test_results_of_runs_and_sweeps_are_no_images(folder: Storage) -> None:
    uri = put(folder, "a/0.png", "b/1.png", "r/x/report/2.png", "r/x/config.json", "r/x/manifest.parquet")
    put(
        folder,
        "sweep-y/t/report/2.png",
        "sweep-y/sweep.json",
        "sweep-y/manifest.parquet",
        "c/manifest.parquet",
        "c/3.png",
    )
    found = listed(uri)
    assert names(found.train, folder) == ["a/0.png", "b/1.png", "c/3.png"]
    assert found.notes[0] == "left out: r/x, sweep-y (results of runs, or named by another flag)"
    with pytest.raises(ValueError, match="is the folder of a run or sweep"):
        listed(f"{uri}/r/x")
    with pytest.raises(ValueError, match=r"holds no image: 0 files .*left out: x"):
        listed(f"{uri}/r")


def test_folders_that_another_flag_names_are_no_images(folder: Storage) -> None:
    uri = put(folder, "a/0.png", "b/1.png", "runs/digits/2.png", "held/out/3.png")
    found = listed(uri, leave_out=(f"{uri}/runs/", f"{uri}/held/out", "", "elsewhere"))
    assert names(found.train, folder) == ["a/0.png", "b/1.png"]
    assert found.notes == ["left out: held/out, runs (results of runs, or named by another flag)"]
    assert len(listed(uri, leave_out=(uri,)).train) == 4  # all is below it: that is no reason


def test_a_relative_folder_or_a_link_to_it_is_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "images", "a/0.png", "b/1.png", "runs/x/2.png")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    monkeypatch.chdir(tmp_path / "images")
    for uri, out in ((".", "runs"), (str(tmp_path / "link"), "./runs"), ("../images", str(tmp_path / "link" / "runs"))):
        assert len(listed(uri, leave_out=(out,)).train) == 2


def test_hidden_folders_and_files_are_left_out_and_said(tmp_path: Path) -> None:
    uri = write(
        tmp_path, "a/0.png", "a/.ipynb_checkpoints/0.png", "__MACOSX/a/._0.png", ".git/x", "a/._0.png", "a/.DS_Store"
    )
    found = listed(uri)
    assert len(found.train) == 1
    assert found.notes == ["left out: 4 hidden (._0.png, .git, .ipynb_checkpoints, …)"]


def test_train_and_val_of_a_folder_are_what_is_trained_on_and_classified(folder: Storage) -> None:
    uri = put(folder, "Train/a/0.png", "Train/b/1.png", "val/a/2.png", "val/b/3.png", "test/4.png")
    found = listed(uri)
    assert names(found.train, folder) == ["Train/a/0.png", "Train/b/1.png"] and found.train.classes == ("a", "b")
    assert found.test is not None and names(found.test, folder) == ["val/a/2.png", "val/b/3.png"]
    assert found.notes == ["trains on Train/ (2 images); evaluates on val/ (2 images); left out: test/ (1 image)"]
    assert found.words.startswith("2 classes")


def test_a_val_part_without_classes_is_passed_over_for_test_and_said(tmp_path: Path) -> None:
    found = listed(write(tmp_path, "train/a/0.png", "train/b/1.png", "val/2.png", "test/a/3.png", "test/b/4.png"))
    assert found.test is not None and found.test.classes == ("a", "b")
    assert "evaluates on test/ (2 images); left out: val/ (1 image)" in found.notes[0]
    assert "val/ cannot be classified: there are no class folders" in found.notes[1]


def test_neither_part_with_classes_leaves_no_test(tmp_path: Path) -> None:
    found = listed(write(tmp_path, "train/a/0.png", "train/b/1.png", "val/2.png"))
    assert found.test is None and len(found.train) == 2 and "left out: val/ (1 image)" in found.notes[0]


def test_a_label_column_for_a_folder_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.label-column 'x': .* is a folder of images"):
        list_source(DataConfig(uri=write(tmp_path, "a/0.png"), label_column="x"), StorageOptions({}))


def test_names_of_class_folders_are_classes_whatever_they_are(tmp_path: Path) -> None:
    found = listed(write(tmp_path, *(f"{name}/0.png" for name in ("none", "NA", "-1", "10", "9", "1.0"))))
    assert found.train.classes == ("-1", "1.0", "10", "9", "NA", "none")
