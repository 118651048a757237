"""Images that are to be trained on and to be classified, too: said, and not trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.listed import Listed
from moco_ray.data.manifest import Images, Manifest
from moco_ray.data.overlap import identities
from moco_ray.data.sources import list_source
from moco_ray.driver.images.listing import list_images
from moco_ray.storage.storage import StorageOptions
from tests.data.small import png
from tests.runs import tiny_config


def listed(uri: Path) -> Listed:
    return list_source(DataConfig(uri=str(uri)), StorageOptions({}))


def numbers(manifest: Manifest | None) -> list[int]:
    """Of the images, by their names."""
    assert manifest is not None
    return sorted(int(Path(uri).stem) for uri in manifest.table["uri"].to_pylist())


def write_list(path: Path, rows: range, below: str = "img") -> None:
    path.write_text("uri,label\n" + "".join(f"{below}/{i}.png,{'ab'[i % 2]}\n" for i in rows))


def classes_of(root: Path, count: int = 12) -> Path:
    for i in range(count):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (root / "ab"[i % 2] / f"{i}.png").write_bytes(png(i))
    return root


@pytest.mark.parametrize("below", ["img", "./img", "link", "x/../img"])
def test_images_of_two_lists_are_not_trained_on(tmp_path: Path, below: str) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("img")
    write_list(tmp_path / "train.csv", range(30))
    write_list(tmp_path / "val.csv", range(15, 40), below)
    found = listed(tmp_path)
    assert numbers(found.train) == list(range(15)) and numbers(found.test) == list(range(15, 40))
    assert found.notes[-2:] == [
        "warning: 15 images of train.csv are in val.csv, too (first 15.png): not trained on",
        "trains on train.csv (15 images); evaluates on val.csv (25 images)",
    ]


def test_parts_of_the_same_images_are_refused(tmp_path: Path) -> None:
    classes_of(tmp_path / "train")
    classes_of(tmp_path / "val", 2)
    assert len(listed(tmp_path).train) == 12  # equal names in other folders are other images
    lists = tmp_path / "lists"
    lists.mkdir()
    write_list(lists / "train.csv", range(12), str(tmp_path / "img"))
    write_list(lists / "test.csv", range(12), str(tmp_path / "img"))
    with pytest.raises(ValueError, match=r"12 of the 12 images of train\.csv are in test\.csv, too.*none is left"):
        listed(lists)
    write_list(lists / "test.csv", range(1, 13), str(tmp_path / "img"))
    with pytest.raises(ValueError, match="only 1 would be left"):
        listed(lists)


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train")])
def test_an_image_whose_rows_contradict_each_other_is_not_trained_on(tmp_path: Path, order: tuple[str, str]) -> None:
    rows = ["0.png,a,train", "1.png,b,train", f"2.png,a,{order[0]}", f"2.png,a,{order[1]}", "3.png,b,test"]
    (tmp_path / "list.csv").write_text("\n".join(["uri,label,split", *rows, "4.png,a,val", "4.png,a,train"]))
    found = listed(tmp_path / "list.csv")
    assert numbers(found.train) == [0, 1] and numbers(found.test) == [2, 3]
    assert any("2 images with different splits in different rows (first 2.png: test)" in note for note in found.notes)


def test_a_column_of_splits_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{split}" for split in ("train", "test") for i in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["uri,label,split", *rows]))
    with pytest.raises(ValueError, match=r"4 of the 4 images of the train rows of .*list\.csv.*none is left"):
        listed(tmp_path / "list.csv")


def run_images(data: Path, evaluation: Path) -> Images:
    config = tiny_config(data, data.parent / "runs")
    return list_images(replace(config, eval=replace(config.eval, uri=str(evaluation))))


def test_images_of_eval_uri_are_not_trained_on(tmp_path: Path, said: list[str]) -> None:
    data = classes_of(tmp_path / "data")
    (tmp_path / "eval.csv").write_text(
        "uri,label\n" + "".join(f"data/{'ab'[i % 2]}/{i}.png,{i % 2}\n" for i in range(5))
    )
    found = run_images(data, tmp_path / "eval.csv")
    assert numbers(found.train) == list(range(5, 12)) and numbers(found.test) == list(range(5))
    assert any("warning: 5 images of data.uri" in line and "7 images are left" in line for line in said)


@pytest.mark.parametrize("kind", ["list", "parent", "links", "parquet"])
def test_eval_images_that_are_all_of_the_others_are_refused(tmp_path: Path, kind: str) -> None:
    data, evaluation = classes_of(tmp_path / "top" / "data"), tmp_path / "eval"
    evaluation.mkdir()
    if kind == "list":
        evaluation = tmp_path / "eval.csv"
        evaluation.write_text("uri,label\n" + "".join(f"top/data/{'ab'[i % 2]}/{i}.png,{i % 2}\n" for i in range(12)))
    elif kind == "parent":
        classes_of(tmp_path / "top" / "more")
        evaluation = tmp_path / "top"
    elif kind == "links":
        for name in "ab":
            (evaluation / name).symlink_to(data / name)
    else:
        pq.write_table(pa.table({"image": [png(0), png(1)], "label": [0, 1]}), evaluation / "x.parquet")
        data = evaluation / "x.parquet"
    with pytest.raises(ValueError, match=r"images of data\.uri .* are in eval\.uri .*, too.*none is left"):
        run_images(data, evaluation)


def test_two_ways_to_write_a_place_are_one() -> None:
    assert identities(["s3a://b/x.png", "/a/./x.png"]) == identities(["s3://b/x.png", "file:///a/x.png"])
    assert len(set(identities(["s3://b/x", "s3://c/x", "https://b/x", "/b/x"]))) == 4
