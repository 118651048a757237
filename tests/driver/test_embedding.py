from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from moco_ray.cli import embed as cli
from moco_ray.cli.pretrain import parse
from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.run import RunConfig
from moco_ray.driver.features import embedding
from moco_ray.driver.features.embedding import embed
from moco_ray.driver.images.listing import list_images
from tests.driver.test_evaluation import encoder as encoder
from tests.runs import tiny_config
from tests.s3 import S3Server

ROOT = Path(__file__).parent.parent.parent
SMALL, PART = 10, 20


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CHUNK", SMALL)
    monkeypatch.setattr(embedding, "PART_ROWS", PART)


def job(encoder: Path, images: Path | str, **run: Any) -> Config:
    config = tiny_config(images, "runs")
    return Config(
        task="embed",
        data=DataConfig(uri=str(images)),
        views=config.views,
        model=replace(config.model, init=str(encoder)),
        run=RunConfig(**{"num_workers": 0, "dtype": "float64", "device": "cpu", **run}),
    )


def quietly(config: Config, output: str | Path, **others: Any) -> dict[str, Any]:
    return embed(config, str(output), say=lambda line: None, **others)


def test_every_image_is_there_once_in_order_with_its_class(encoder: Path, images: Path, tmp_path: Path) -> None:
    found = quietly(job(encoder, images), tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "vectors")
    paths = sorted(map(str, images.rglob("*.png")))
    assert table.uri.tolist() == paths and table.row.tolist() == list(range(211))
    assert table.label.tolist() == [Path(path).parent.name for path in paths]
    dataset = ds.dataset(tmp_path / "out" / "vectors")
    assert (
        len(dataset.files) == 11 and str(dataset.schema.field("vector").type) == "fixed_size_list<element: float>[96]"
    )
    assert (found["num_vectors"], found["num_bad"]) == (211, 0)
    assert np.isfinite(np.stack(table.vector)).all()


@pytest.mark.slow
def test_workers_of_ray_give_the_same_bits(encoder: Path, images: Path, tmp_path: Path, shared_ray: None) -> None:
    for num_workers in (0, 2):
        quietly(job(encoder, images, num_workers=num_workers), tmp_path / str(num_workers))
    first, second = (np.stack(pd.read_parquet(tmp_path / name / "vectors").vector) for name in ("0", "2"))
    assert np.array_equal(first, second)


# Slow enough to be killed between two parts.
PROGRAM = """
import sys, time
from moco_ray.driver.features import embedding
embedding.CHUNK, embedding.PART_ROWS = 10, 20
fast = embedding._write
def slow(*arguments):
    fast(*arguments)
    print("part", flush=True)
    time.sleep(0.3)
embedding._write = slow
from moco_ray.cli.embed import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_twice_it_goes_on_and_every_image_is_there_once(encoder: Path, images: Path, tmp_path: Path) -> None:
    (bad := tmp_path / "images" / "9" / "bad.png").parent.mkdir(parents=True)
    bad.write_bytes(b"no image")
    for path in images.rglob("*.png"):
        (target := tmp_path / "images" / path.parent.name / path.name).parent.mkdir(exist_ok=True)
        os.symlink(path, target)
    out = tmp_path / "out"
    flags = f"{encoder} --data.uri {tmp_path / 'images'} --output {out} --run.num-workers 0"
    command = [sys.executable, "-c", PROGRAM, *flags.split()]
    counts = []
    for _ in range(2):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            parts = 0
            for line in process.stdout:
                parts += line == "part\n"
                if parts == 3:
                    process.send_signal(signal.SIGKILL)
                    break
        counts.append(len(list((out / "vectors").glob("*.parquet"))))
    assert 3 <= counts[0] < counts[1] < 11
    before = {path: path.stat().st_mtime_ns for path in (out / "vectors").glob("*.parquet")}
    assert not (out / "bad_images.jsonl").exists() or counts[1] < 11
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert f"{counts[1]} of 11 parts are there already" in done.stdout
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    table = pd.read_parquet(out / "vectors")
    refused = [json.loads(line) for line in (out / "bad_images.jsonl").read_text().splitlines()]
    seen = [*table.uri, *(line["uri"] for line in refused)]
    assert sorted(seen) == sorted(map(str, (tmp_path / "images").rglob("*.png")))
    assert [line["uri"] for line in refused] == [str(bad)] and "not an image" in refused[0]["reason"]
    note = json.loads((out / "embeddings.json").read_text())
    assert (note["is_complete"], note["num_vectors"], note["num_bad"]) == (True, 211, 1)


def test_a_complete_folder_is_left_as_it_is(encoder: Path, images: Path, tmp_path: Path, said: list[str]) -> None:
    quietly(job(encoder, images), tmp_path)
    embed(job(encoder, images), str(tmp_path), say=said.append)
    assert "11 of 11 parts are there already" in said
    assert not any("working" in line for line in said)


def test_another_encoder_or_other_images_do_not_mix(encoder: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(job(encoder, images), out)
    with pytest.raises(
        ValueError, match=r"holds embeddings of other images: it was .*, 211 images .*, now .* 21 images"
    ):
        quietly(job(encoder, images / "1"), out)
    with pytest.raises(
        ValueError, match=r"holds embeddings of the same encoder used in another way, dtype: it was float64"
    ):
        quietly(job(encoder, images, dtype="float32"), out)
    note = json.loads((out / "embeddings.json").read_text())
    note["encoder"]["digest"] = "another"
    (out / "embeddings.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match=r"holds embeddings of another encoder: it was .* \(digest another\), now"):
        quietly(job(encoder, images), out)
    (out / "embeddings.json").unlink()
    with pytest.raises(ValueError, match=r"has a folder vectors and no embeddings.json"):
        quietly(job(encoder, images), out)


def test_another_kind_of_device_does_not_mix(encoder: Path, images: Path, tmp_path: Path) -> None:
    quietly(job(encoder, images / "1"), tmp_path)
    note = json.loads((tmp_path / "embeddings.json").read_text())
    assert note["device"] == "cpu"
    (tmp_path / "embeddings.json").write_text(json.dumps({**note, "device": "cuda"}))
    quietly(job(encoder, images / "1"), tmp_path, threshold=0.99)  # encodes nothing
    next((tmp_path / "vectors").glob("*.parquet")).unlink()
    with pytest.raises(ValueError, match=r"made with --run.device cuda \(--run.dtype float64\), now it is cpu"):
        quietly(job(encoder, images / "1"), tmp_path)


def test_a_part_of_which_nothing_decodes_is_empty(encoder: Path, images: Path, tmp_path: Path) -> None:
    for i in range(PART):
        (tmp_path / f"{i:02}.png").write_bytes(b"no image")
    (tmp_path / "good.png").write_bytes(next(images.rglob("*.png")).read_bytes())
    found = quietly(job(encoder, tmp_path), tmp_path / "out")
    assert (found["num_vectors"], found["num_bad"]) == (1, PART)
    assert len(pd.read_parquet(tmp_path / "out" / "vectors")) == 1


def copies(images: Path, folder: Path) -> dict[str, list[str]]:
    """40 digits, and of three of them copies: a smaller file that looks nearly the same."""
    folder.mkdir()
    groups = {}
    for i, path in enumerate(sorted(images.rglob("*.png"))[::5][:40]):
        pixels = cv2.resize(cv2.imread(str(path)), (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:02}.png"), pixels)
        if i in (3, 17, 30):
            names = [f"{i:02}_{quality}.jpg" for quality in (60, 80)][: 1 + (i == 17)]
            for name in names:
                quality = int(name[3:5])
                cv2.imwrite(str(folder / name), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            groups[f"{i:02}.png"] = names
    return groups


def test_near_duplicates_are_grouped_and_all_but_one_of_each_are_left_out(
    encoder: Path, images: Path, tmp_path: Path
) -> None:
    groups = copies(images, tmp_path / "images")
    out = tmp_path / "out"
    found = quietly(job(encoder, tmp_path / "images"), out, threshold=0.99)
    assert found["duplicates"] == {"threshold": 0.99, "num_groups": 3, "num_left_out": 4, "largest_group": 3}
    table = pd.read_csv(out / "duplicates.csv")
    assert table.group.tolist() == [0, 0, 0, 1, 1, 2, 2]
    for _, group in table.groupby("group"):
        names = [Path(uri).name for uri in group.uri]
        sizes = [os.path.getsize(uri) for uri in group.uri]
        assert sizes[0] == max(sizes) and group.keep.tolist() == ["yes"] + ["no"] * (len(names) - 1)
        original = next(name for name in names if name.endswith(".png"))
        assert sorted(names) == sorted([original, *groups[original]])
        assert group.similarity.iloc[0] == 1 and group.similarity.min() > 0.97
    assert (out / "duplicates.png").read_bytes().startswith(b"\x89PNG")
    few = quietly(job(encoder, tmp_path / "images"), tmp_path / "few", threshold=0.99)["duplicates"]
    assert few["num_groups"] and (tmp_path / "few/duplicates.png").exists()
    none = quietly(job(encoder, tmp_path / "images"), tmp_path / "few", threshold=1)["duplicates"]
    assert none["num_groups"] == 0 and not (tmp_path / "few/duplicates.png").exists()
    for name in ("exclude.txt", "duplicates.csv"):  # what pretraining does with them
        config = parse(["--data.uri", str(tmp_path / "images"), "--data.exclude", str(out / name)]).config
        assert len(list_images(config).train) == 40


def test_groups_do_not_depend_on_what_fits_into_memory(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moco_ray.evaluate.at_scale import search

    copies(images, tmp_path / "images")
    texts = []
    for held in (1 << 27, 1):
        monkeypatch.setattr(search, "_HELD_NUMBERS", held)
        quietly(job(encoder, tmp_path / "images"), tmp_path / str(held), threshold=0.9)
        texts.append((tmp_path / str(held) / "duplicates.csv").read_text())
    assert texts[0] == texts[1] and len(texts[0]) > 100


def test_the_nearest_images_of_an_image_are_its_copies(encoder: Path, images: Path, tmp_path: Path) -> None:
    copies(images, tmp_path / "images")
    out = tmp_path / "out"
    found = quietly(job(encoder, tmp_path / "images"), out, neighbours=str(tmp_path / "images" / "17.png"))
    (query,) = found["neighbours"]["queries"]
    names = [Path(near["uri"]).name for near in query["neighbours"]]
    assert set(names[:2]) == {"17_60.jpg", "17_80.jpg"} and "17.png" not in names and len(names) == 8
    assert pd.read_csv(out / "neighbours.csv")["rank"].tolist() == list(range(1, 9))
    assert (out / "neighbours.png").read_bytes().startswith(b"\x89PNG")
    again = quietly(job(encoder, tmp_path / "images"), out, neighbours=str(images / "3"))
    assert again["neighbours"]["num_queries"] == 21


def test_queries_need_no_label_column(encoder: Path, images: Path, tmp_path: Path) -> None:
    paths = sorted(map(str, images.glob("[12]/*.png")))
    pd.DataFrame({"path": paths, "kind": [path.split("/")[-2] for path in paths]}).to_csv(tmp_path / "list.csv")
    config = job(encoder, tmp_path / "list.csv")
    config = replace(config, data=replace(config.data, label_column="kind", classes=("1", "2")))
    found = quietly(config, tmp_path / "out", neighbours=str(images / "3"))
    assert found["neighbours"]["num_queries"] == 21


def test_it_writes_to_s3(encoder: Path, images: Path, s3: S3Server) -> None:
    output = f"s3://{s3.bucket}/vectors-{time.time_ns()}"
    found = quietly(job(encoder, images / "4"), output, threshold=0.999)
    assert found["num_vectors"] == 21 and quietly(job(encoder, images / "4"), output)["num_vectors"] == 21


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data.uri X", "--output is missing"),
        ("--data.uri X --output Y", "model.init is missing"),
        ("--data.uri X --output Y --duplicates 1.5", "--duplicates is 1.5"),
        ("--output Y", "data.uri is missing"),
    ],
)
def test_a_wrong_command_is_one_message(flags: str, message: str, capsys: Any) -> None:
    assert cli.main(flags.split()) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
