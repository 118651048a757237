"""Where the images lie is not the experiment: a run goes on with the same images in another place, and with no others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.config import Config
from moco_ray.data.compare import is_same_place
from moco_ray.data.manifest import Manifest
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import losses, tiny_config

STEPS = 5


def _quiet(line: str) -> None:
    pass


@pytest.fixture
def mine(images: Path, tmp_path: Path) -> Path:
    """Fifty of the images in a folder that may be moved."""
    for path in sorted(images.glob("*/*.png"))[::4]:
        target = tmp_path / "here" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "here"


def _config(uri: str | Path, folder: Path, name: str = "run", max_steps: int = 2, eval_uri: str = "") -> Config:
    config = tiny_config(uri, folder / "runs", name=name, max_steps=max_steps)
    return replace(config, eval=replace(config.eval, uri=eval_uri, max_queries=4, max_bank=8))


def _manifest(run: Path) -> Manifest:
    return Manifest.read(Storage.open(str(run), StorageOptions({})), f"{run}/manifest.parquet")


def _whole(uri: Path, folder: Path) -> np.ndarray:
    return losses(pretrain(_config(uri, folder, "whole", STEPS), say=_quiet).folder)


def test_another_spelling_of_the_place_goes_on(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain(_config(mine, tmp_path, max_steps=1), say=_quiet)
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    manifest = _manifest(tmp_path / "runs" / "run")
    for uri in (f"{mine}/", f"file://{mine}", "here", "./here/", f"{tmp_path}/link", f"{mine}/../here"):
        assert is_same_place(manifest, str(mine), uri), uri
    for uri in (f"{mine}/0", str(tmp_path), "her", "s3://here"):
        assert not is_same_place(manifest, str(mine), uri), uri
    said: list[str] = []
    assert pretrain(_config(f"{mine}/", tmp_path, max_steps=2), say=said.append).step == 2
    assert not any("listing" in line for line in said)


def test_a_run_goes_on_with_a_folder_that_was_moved(mine: Path, tmp_path: Path) -> None:
    whole = _whole(mine, tmp_path)
    run = Path(pretrain(_config(mine, tmp_path), say=_quiet).folder)
    digest = _manifest(run).digest
    moved = tmp_path / "a new disk" / "images"
    moved.parent.mkdir()
    mine.rename(moved)
    with pytest.raises(ValueError, match=r"png: there is no such file.*new place with --data\.uri"):
        pretrain(_config(mine, tmp_path, max_steps=STEPS), say=_quiet)
    said: list[str] = []
    pretrain(_config(moved, tmp_path, max_steps=4), say=said.append)
    assert any(f"images of data.uri {mine} lie in {moved} now" in line for line in said)
    assert _manifest(run).digest == digest and _manifest(run).uri(0).startswith(str(moved))
    assert json.loads((run / "config.json").read_text())["data"]["uri"] == str(moved)
    said.clear()
    pretrain(_config(moved, tmp_path, max_steps=STEPS), say=said.append)  # and is there from now on
    assert not any("listing" in line for line in said)
    np.testing.assert_allclose(losses(run), whole, rtol=1e-12)


def test_a_relative_place_is_found_again_from_another_folder(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's folder was moved, and the command is given in it as before."""
    project, moved = tmp_path / "project", tmp_path / "moved project"
    project.mkdir()
    mine.rename(project / "images")
    monkeypatch.chdir(project)
    pretrain(_config("images", tmp_path), say=_quiet)
    monkeypatch.chdir(tmp_path)
    project.rename(moved)
    monkeypatch.chdir(moved)
    said: list[str] = []
    assert pretrain(_config("images", tmp_path, max_steps=3), say=said.append).step == 3
    assert any("lie in images now" in line for line in said)


def test_other_images_in_the_new_place_are_refused_with_what_differs(mine: Path, tmp_path: Path) -> None:
    run = Path(pretrain(_config(mine, tmp_path, max_steps=1), say=_quiet).folder)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    other = tmp_path / "other"
    shutil.copytree(mine, other)
    first, second, *_ = sorted(other.glob("*/*.png"))
    first.rename(other / "new.png")
    second.write_bytes(second.read_bytes() + b"\0")
    with pytest.raises(ValueError) as refused:
        pretrain(_config(other, tmp_path), say=_quiet)
    told = str(refused.value)
    for part in (
        f"data.uri was '{mine}', now '{other}'",
        f"1 removed ({first.relative_to(other)})",
        "1 added (new.png)",
        f"1 changed in size ({second.relative_to(other)})",
        "--run.name",
        "--data.relist",
    ):
        assert part in told, told
    kept = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name in before}
    assert all(kept[name] == before[name] for name in ("config.json", "manifest.parquet"))
    assert pretrain(_config(mine, tmp_path), say=_quiet).step == 2


@pytest.mark.parametrize("kind", ["list", "parquet"])
def test_lists_and_parquet_files_may_move_too(kind: str, mine: Path, tmp_path: Path) -> None:
    paths = sorted(mine.glob("*/*.png"))
    if kind == "list":
        lines = [f"{path.relative_to(tmp_path)},{path.parent.name}\n" for path in paths]
        old, new = tmp_path / "list.csv", tmp_path / "moved" / "a list.csv"
        old.write_text("uri,label\n" + "".join(lines))
        pretrain(_config(old, tmp_path), say=_quiet)
        new.parent.mkdir()
        shutil.move(mine, tmp_path / "moved" / "here")
        new.write_text("uri,label\n" + "".join(reversed(lines)))
    else:
        old, new = tmp_path / "a.parquet", tmp_path / "b.parquet"
        pq.write_table(pa.table({"image": [path.read_bytes() for path in paths]}), old, row_group_size=8)
        pretrain(_config(old, tmp_path), say=_quiet)
        old.rename(new)
    assert pretrain(_config(new, tmp_path, max_steps=3), say=_quiet).step == 3


def test_the_images_of_eval_uri_may_move_and_may_not_be_others(mine: Path, images: Path, tmp_path: Path) -> None:
    test, moved = tmp_path / "test", tmp_path / "moved test"
    for number in "01":
        shutil.copytree(images / number, test / number)
    run = Path(pretrain(_config(mine, tmp_path, max_steps=1, eval_uri=str(test)), say=_quiet).folder)
    test.rename(moved)
    assert pretrain(_config(mine, tmp_path, max_steps=2, eval_uri=f"{moved}/"), say=_quiet).step == 2
    evaluations = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert evaluations[-1]["step"] == 2 and "eval/bad_images" not in evaluations[-1]
    other = tmp_path / "other test"
    shutil.copytree(moved, other)
    next(other.glob("1/*.png")).unlink()
    with pytest.raises(ValueError, match=r"eval\.uri was .*1 removed \(1/"):
        pretrain(_config(mine, tmp_path, max_steps=3, eval_uri=str(other)), say=_quiet)
    with pytest.raises(ValueError, match=r"eval\.uri was '.*', now ''"):
        pretrain(_config(mine, tmp_path, max_steps=3), say=_quiet)


def test_the_val_part_of_data_uri_may_be_named_by_eval_uri(mine: Path, images: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    mine.rename(both / "train")
    for number in "01":
        shutil.copytree(images / number, both / "val" / number)
    run = Path(pretrain(_config(both, tmp_path, max_steps=1), say=_quiet).folder)
    with pytest.raises(ValueError, match=r"images to classify are missing; copy them, too, or name .* --eval\.uri"):
        pretrain(_config(both / "train", tmp_path), say=_quiet)
    with pytest.raises(ValueError, match=r"eval\.uri was .*removed"):
        pretrain(_config(both / "train", tmp_path, eval_uri=str(images / "..")), say=_quiet)
    parts = _config(both / "train", tmp_path, eval_uri=str(both / "val"))
    assert pretrain(parts, say=_quiet).step == 2
    assert json.loads((run / "config.json").read_text())["eval"]["uri"] == str(both / "val")
    parts = replace(parts, run=replace(parts.run, max_steps=3))
    said: list[str] = []
    assert pretrain(parts, say=said.append).step == 3 and not any("listing" in line for line in said)


def test_a_run_that_holds_images_out_takes_no_others_to_classify(mine: Path, images: Path, tmp_path: Path) -> None:
    pretrain(_config(mine, tmp_path, max_steps=1), say=_quiet)
    with pytest.raises(ValueError, match=r"another experiment: eval\.uri was '', now '.*--run\.name"):
        pretrain(_config(mine, tmp_path, eval_uri=str(images)), say=_quiet)
    assert pretrain(_config(mine, tmp_path), say=_quiet).step == 2


def test_a_run_of_an_older_version_goes_on_and_may_be_moved(mine: Path, tmp_path: Path) -> None:
    """Its config.json lacks the newer fields, and its digest covers the full URIs."""
    run = Path(pretrain(_config(mine, tmp_path), say=_quiet).folder)
    stored = json.loads((run / "config.json").read_text())
    del stored["data"]["relist"]
    (run / "config.json").write_text(json.dumps(stored))
    moved = tmp_path / "moved"
    os.rename(mine, moved)
    assert pretrain(_config(moved, tmp_path, max_steps=3), say=_quiet).step == 3
