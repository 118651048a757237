"""Bad images are mended or deleted, and the same command goes on: with --data.relist where the files are others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from moco_ray.cli.pretrain import main
from moco_ray.config import Config
from moco_ray.config.methods import MemoryBankConfig
from moco_ray.core.hashing import rows_digest
from moco_ray.data.manifest import Manifest
from moco_ray.data.order import make_order
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import digests, losses, metrics, tiny_config


def _quiet(line: str) -> None:
    pass


@pytest.fixture
def mine(images: Path, tmp_path: Path) -> Path:
    """Seventy of the images."""
    for path in sorted(images.glob("*/*.png"))[::3]:
        target = tmp_path / "mine" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "mine"


def _config(uri: Path, folder: Path, max_steps: int, *, relist: bool = False, limit: float = 0.02) -> Config:
    config = tiny_config(uri, folder / "runs", max_steps=max_steps, checkpoint_every_steps=2)
    data = replace(config.data, relist=relist, max_bad_fraction=limit)
    optim = replace(config.optim, epochs=12)
    return replace(config, data=data, optim=optim, eval=replace(config.eval, max_queries=7, max_bank=8))


def _manifest(run: Path, name: str = "manifest.parquet") -> Manifest:
    return Manifest.read(Storage.open(str(run), StorageOptions({})), f"{run}/{name}")


def _train_files(run: Path) -> list[Path]:
    manifest = _manifest(run)
    return [Path(manifest.uri(row)) for row in manifest.train_rows().tolist()]


def _break(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"\0" * path.stat().st_size)


def test_deleted_bad_images_and_relist_let_the_same_command_go_on(mine: Path, tmp_path: Path) -> None:
    run = Path(pretrain(_config(mine, tmp_path, 2), say=_quiet).folder)
    before, held_out = _manifest(run), set(map(str, mine.glob("*/*.png"))) - set(map(str, _train_files(run)))
    bad = _train_files(run)[::6]
    _break(bad)
    with pytest.raises(ValueError, match=r"images are bad.*mend or delete them.*--data\.relist(.|\n)*lists"):
        pretrain(_config(mine, tmp_path, 12), say=_quiet)
    for path in bad:
        path.unlink()
    with pytest.raises(ValueError, match=r"--data\.relist(.|\n)*there is no such file"):  # the flag is what it takes
        pretrain(_config(mine, tmp_path, 12), say=_quiet)
    said: list[str] = []
    pretrain(_config(mine, tmp_path, 12, relist=True), say=said.append)
    assert any(f"{len(bad)} removed ({bad[0].relative_to(mine)}, " in line for line in said)
    start = next(int(line.split()[3]) for line in said if line.startswith("training from step"))
    assert start >= 2 and len(metrics(run)) == 12
    # The old list stays, the new one holds what is left with the same images held out, and a line says so.
    line = json.loads((run / "lineage.jsonl").read_text())
    assert line["until_step"] == start and line["num_images"] == [len(before.train_rows()), len(_train_files(run))]
    assert _manifest(run, line["manifest"]).digest == before.digest
    assert set(map(str, mine.glob("*/*.png"))) - set(map(str, _train_files(run))) == held_out
    assert (run / "bad_images.jsonl").read_text() == ""
    state = torch.load(run / "checkpoint_000000012" / "state.pt", weights_only=True)
    assert state["manifest_digest"] == _manifest(run).digest and state["step"] == 12
    # Steps go on at their positions in the order of the new list.
    order = make_order(_manifest(run), seed=0, global_batch_size=24)
    rows = _manifest(run).train_rows()[order.rows(np.arange(start * 24, 12 * 24))]
    assert sum(digests(run)[start:]) % 2**64 == rows_digest(rows)
    # The flag does nothing a second time, and the command without it goes on.
    said.clear()
    assert pretrain(_config(mine, tmp_path, 13, relist=True), say=said.append).step == 13
    assert any("has not changed" in line for line in said)
    assert pretrain(_config(mine, tmp_path, 14), say=_quiet).step == 14
    assert len((run / "lineage.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_weights_queue_and_optimizer_go_on_and_automatic_values_stay(mine: Path, tmp_path: Path) -> None:
    config = _config(mine, tmp_path, 4)
    config = replace(config, method=replace(config.method, queue_size=None))
    run = Path(pretrain(config, say=_quiet).folder)
    saved = torch.load(run / "checkpoint_000000004" / "state.pt", weights_only=True)["method"]
    for path in _train_files(run)[:20]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    config = replace(config, data=replace(config.data, relist=True))
    pretrain(config, say=_quiet)  # of the same length: it ends at once, with everything it had
    resumed = torch.load(run / "checkpoint_000000004" / "state.pt", weights_only=True)["method"]
    assert all(torch.equal(resumed[name], saved[name]) for name in saved)
    later = replace(config, data=replace(config.data, relist=False), run=replace(config.run, max_steps=6))
    assert pretrain(later, say=_quiet).step == 6
    queue = json.loads((run / "config.json").read_text())["method"]["queue_size"]
    state = torch.load(run / "checkpoint_000000006" / "state.pt", weights_only=True)["method"]
    assert len(state["queue.keys"]) == len(saved["queue.keys"]) == queue


def test_mended_images_of_the_same_size_need_no_flag(mine: Path, tmp_path: Path) -> None:
    run = Path(pretrain(_config(mine, tmp_path, 2), say=_quiet).folder)
    paths = _train_files(run)[::6]
    whole = [path.read_bytes() for path in paths]
    _break(paths)
    with pytest.raises(ValueError, match="images are bad"):
        pretrain(_config(mine, tmp_path, 6), say=_quiet)
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    said: list[str] = []
    assert pretrain(_config(mine, tmp_path, 6), say=said.append).step == 6
    assert any("bad images are good now" in line for line in said)


@pytest.mark.slow
def test_before_any_checkpoint_relist_begins_with_the_images_as_they_are(mine: Path, tmp_path: Path) -> None:
    _break(sorted(mine.glob("*/*.png"))[::2])
    config = _config(mine, tmp_path, 2)
    config = replace(config, method=replace(config.method, queue_size=None))
    config = replace(config, run=replace(config.run, checkpoint_every_steps=None, log_every_steps=1))
    with pytest.raises(ValueError, match=r"images are bad(.|\n)*those met so far, after (24|48) of the \d\d"):
        pretrain(config, say=_quiet)
    run = tmp_path / "runs" / "run"
    shutil.rmtree(run / "checkpoint_000000001", ignore_errors=True)
    shutil.rmtree(run / "checkpoint_000000002", ignore_errors=True)
    for path in sorted(mine.glob("*/*.png"))[::2]:
        path.unlink()
    said: list[str] = []
    assert pretrain(replace(config, data=replace(config.data, relist=True)), say=said.append).step == 2
    assert any("no checkpoint has been written yet" in line for line in said)
    assert len(_manifest(run)) == len(list(mine.glob("*/*.png"))) and not (run / "lineage.jsonl").exists()
    assert pretrain(replace(config, run=replace(config.run, max_steps=3)), say=_quiet).step == 3


@pytest.mark.slow
def test_another_place_with_other_images_goes_on_with_the_flag(mine: Path, tmp_path: Path) -> None:
    run = Path(pretrain(_config(mine, tmp_path, 2), say=_quiet).folder)
    other = tmp_path / "other"
    shutil.copytree(mine, other)
    shutil.copytree(other / "0", other / "10")
    assert pretrain(_config(other, tmp_path, 4, relist=True), say=_quiet).step == 4
    assert pretrain(_config(other, tmp_path, 5), say=_quiet).step == 5
    assert all(str(path).startswith(str(other)) for path in _train_files(run))
    assert len(losses(run)) == 5


@pytest.mark.slow
def test_a_method_with_an_entry_for_each_image_refuses_others(mine: Path, tmp_path: Path) -> None:
    def config(max_steps: int, relist: bool = False) -> Config:
        made = _config(mine, tmp_path, max_steps, relist=relist)
        return replace(made, method=MemoryBankConfig(num_negatives=16))

    run = Path(pretrain(config(2), say=_quiet).folder)
    gone = _train_files(run)[0]
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(ValueError, match=r"memory-bank keeps an entry for each image.*--run\.name"):
        pretrain(config(4, relist=True), say=_quiet)
    gone.write_bytes(content)
    assert pretrain(config(4, relist=True), say=_quiet).step == 4


def test_the_printed_command_leaves_the_flag_out(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"--preset smoke --run.num-workers 0 --run.max-steps 1 --data.relist --data.uri {mine}"
    assert main([*flags.split(), "--run.storage-path", str(tmp_path), "--run.name", "a"]) == 0
    first = next(line for line in capsys.readouterr().out.splitlines() if "to resume it" in line)
    assert "relist" not in first and "--run.max-steps 1" in first


def test_a_damaged_list_is_named_with_the_way_on(mine: Path, tmp_path: Path) -> None:
    run = Path(pretrain(_config(mine, tmp_path, 1), say=_quiet).folder)
    whole = (run / "manifest.parquet").read_bytes()
    for damage in (b"", whole[: len(whole) // 2], None):
        if damage is None:
            (run / "manifest.parquet").unlink()
        else:
            (run / "manifest.parquet").write_bytes(damage)
        with pytest.raises(ValueError, match=r"manifest\.parquet.*(damaged|no such file).*put it back"):
            pretrain(_config(mine, tmp_path, 2), say=_quiet)
    (run / "manifest.parquet").write_bytes(whole)
    assert pretrain(_config(mine, tmp_path, 2), say=_quiet).step == 2


def _held_out(run: Path) -> list[Path]:
    manifest = _manifest(run)
    return [Path(manifest.uri(row)) for row in range(len(manifest)) if row not in set(manifest.train_rows().tolist())]


@pytest.mark.slow
def test_where_few_held_out_images_are_left_others_are_drawn_from_those_that_are_new(
    mine: Path, tmp_path: Path
) -> None:
    run = Path(pretrain(_config(mine, tmp_path, 2), say=_quiet).folder)
    old = _held_out(run)
    for path in [*old[:4], *_train_files(run)[:20]]:
        path.rename(path.with_name(f"new {path.name}"))
    said: list[str] = []
    pretrain(_config(mine, tmp_path, 4, relist=True), say=said.append)
    assert (
        "3 images are held out, as before: 4 of 7 are gone, or have other names and are trained on from now on" in said
    )
    assert any(line.startswith("4 of the 24 added images are held out instead") for line in said)
    now = _held_out(run)
    assert (
        len(now) == 7 and set(old[4:]) < set(now) and all(path.name.startswith("new ") for path in set(now) - set(old))
    )
    assert not any("held out for kNN" in line for line in said)  # the fresh list's own choice is none of this run


@pytest.mark.slow
@pytest.mark.parametrize("num_left", [0, 1, 6])
def test_evaluations_go_on_with_the_held_out_images_that_are_left(num_left: int, mine: Path, tmp_path: Path) -> None:
    run = Path(pretrain(_config(mine, tmp_path, 2), say=_quiet).folder)
    old = _held_out(run)
    for path in old[num_left:]:
        path.unlink()
    said: list[str] = []
    pretrain(_config(mine, tmp_path, 4, relist=True), say=said.append)
    assert not any("could not" in line or "evaluation of step" in line for line in said), said
    evaluated = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert (
        evaluated["step"] == 4 and "eval/knn_top1" in evaluated and ("eval/uniformity" in evaluated) == (num_left != 1)
    )
    assert _held_out(run) == old[:num_left] if num_left else len(_held_out(run)) > 2
    assert any("gone: others are now, which have been trained on" in line for line in said) == (num_left == 0)


@pytest.mark.slow
def test_other_labels_alone_are_no_other_number_of_images(mine: Path, tmp_path: Path) -> None:
    uris = sorted(map(str, mine.glob("*/*.png")))
    table = tmp_path / "list.csv"
    table.write_text("uri,label\n" + "".join(f"{uri},{i % 2}\n" for i, uri in enumerate(uris)))
    pretrain(_config(table, tmp_path, 2), say=_quiet)
    table.write_text("uri,label\n" + "".join(f"{uri},{i % 3}\n" for i, uri in enumerate(uris)))
    said: list[str] = []
    assert pretrain(_config(table, tmp_path, 3, relist=True), say=said.append).step == 3
    assert any("labelled otherwise" in line for line in said) and not any("instead of" in line for line in said)


@pytest.mark.slow
def test_another_shard_beside_a_single_parquet_file_leaves_the_held_out_images(mine: Path, tmp_path: Path) -> None:
    def write(name: str, paths: list[Path]) -> None:
        labels = [path.parent.name for path in paths]
        pq.write_table(
            pa.table({"image": [path.read_bytes() for path in paths], "label": labels}), tmp_path / "p" / name
        )

    (tmp_path / "p").mkdir()
    paths = sorted(mine.glob("*/*.png"))
    write("x.parquet", paths[::2])
    run = Path(pretrain(_config(tmp_path / "p", tmp_path, 1), say=_quiet).folder)
    held_out = _held_out(run)
    write("x2.parquet", paths[1::2])
    said: list[str] = []
    pretrain(_config(tmp_path / "p", tmp_path, 2, relist=True), say=said.append)
    assert any(f"has changed: {len(paths[1::2])} added (x2.parquet" in line for line in said), said
    assert held_out and _held_out(run) == held_out and f"{len(held_out)} images are held out, as before" in said


@pytest.mark.slow
@pytest.mark.parametrize("has_ended_well", [False, True])
def test_the_limit_is_checked_though_the_last_step_is_done(has_ended_well: bool, mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    pretrain(_config(mine, tmp_path, 1), say=_quiet)
    bad = _train_files(run)[::4]
    whole = [path.read_bytes() for path in bad]
    shutil.rmtree(run)
    _break(bad)
    if has_ended_well:
        pretrain(_config(mine, tmp_path, 1, limit=1), say=_quiet)
    else:
        with pytest.raises(ValueError, match="images are bad"):
            pretrain(_config(mine, tmp_path, 1), say=_quiet)
    for path in bad:
        path.unlink()
    with pytest.raises(ValueError, match=r"images are bad, more than(.|\n)*--data\.relist"):
        pretrain(_config(mine, tmp_path, 1), say=_quiet)
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content)
    assert pretrain(_config(mine, tmp_path, 1), say=_quiet).step == 1
