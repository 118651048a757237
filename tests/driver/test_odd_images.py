"""Runs on folders with images of every kind, and with files that are none."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.core.hashing import rows_digest
from moco_ray.driver.run import pretrain
from tests.runs import digests, losses, metrics, tiny_config


def _quiet(line: str) -> None:
    pass


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _bomb() -> bytes:
    """A PNG header that promises 10 gigapixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 64


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _good_files() -> dict[str, bytes]:
    rgb = Image.fromarray(_noise(40, 50, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(_noise(40, 50).astype(np.uint16) << 4)
    return {
        "cmyk.jpg": _encoded(rgb.convert("CMYK"), "JPEG"),
        "rgba.png": _encoded(rgb.convert("RGBA"), "PNG"),
        "palette.png": _encoded(rgb.convert("P"), "PNG"),
        "animated.gif": _encoded(rgb.convert("P"), "GIF", save_all=True, append_images=[rgb.convert("P")]),
        "turned.jpg": _encoded(rgb, "JPEG", exif=turned),
        "one_pixel.png": _encoded(Image.fromarray(_noise(1, 1, 3)), "PNG"),
        "x_ray_16_bit.png": _encoded(deep, "PNG"),
        "x_ray_16_bit.tif": _encoded(deep, "TIFF"),
        "grey.jpg": _encoded(rgb.convert("L"), "JPEG"),
        "a + b%2F #é?.PNG": _encoded(rgb, "PNG"),
    }


def _bad_files() -> dict[str, bytes]:
    rgb = Image.fromarray(_noise(40, 50, 3))
    return {
        "truncated.jpg": _encoded(rgb, "JPEG")[:700],
        "truncated.png": _encoded(rgb, "PNG")[:2000],
        "empty.jpg": b"",
        "text.jpg": b"this is no image",
        "bomb.png": _bomb(),
    }


@pytest.fixture
def odd(images: Path, tmp_path: Path) -> Path:
    """211 good digits, ten odd but good images, five bad ones."""
    folder = tmp_path / "odd"
    shutil.copytree(images, folder)
    for name, content in (_good_files() | _bad_files()).items():
        (folder / "0" / name).write_bytes(content)
    return folder


def test_odd_images_are_trained_on_and_bad_ones_are_listed_and_counted(odd: Path, tmp_path: Path) -> None:
    config = tiny_config(odd, tmp_path, name="odd-run", log_every_steps=1)
    config = replace(config, data=replace(config.data, max_bad_fraction=0.05, max_pixels=10_000_000))
    config = replace(config, optim=replace(config.optim, epochs=1), eval=replace(config.eval, holdout_fraction=0.0))
    said: list[str] = []
    folder = Path(pretrain(config, say=said.append).folder)
    listed = [json.loads(line) for line in (folder / "bad_images.jsonl").read_text().splitlines()]
    assert sorted(Path(line["uri"]).name for line in listed) == sorted(_bad_files())
    assert all(line["reason"] for line in listed) and len({line["row"] for line in listed}) == 5
    assert [line["data/bad_images"] for line in metrics(folder)][-1] == 5
    assert sum("bad image" in line for line in said) == 5
    # Bad rows keep their positions: all 226 are in the digest of the epoch, and 10 steps of 24 are 240.
    assert len(metrics(folder)) == 10
    rows = np.arange(226)
    last = (sum(digests(folder)) - rows_digest(rows)) % 2**64  # what the last step took from the next epoch
    from moco_ray.data.order import Order

    overhang = Order(config.run.seed, 226, None, 24, 24).rows(np.arange(226, 240))
    assert last == rows_digest(overhang)


def test_a_bad_image_shifts_no_other(images: Path, tmp_path: Path) -> None:
    """A stand-in takes the place of the bad image: all other groups see what they saw before."""
    broken = tmp_path / "broken"
    shutil.copytree(images, broken)
    victim = sorted(broken.glob("*/*.png"))[100]
    victim.write_bytes(victim.read_bytes()[:200])
    config = tiny_config(images, tmp_path, name="good", max_steps=8)
    config = replace(config, eval=replace(config.eval, holdout_fraction=0.0))
    good = Path(pretrain(config, say=_quiet).folder)
    config = replace(config, data=replace(config.data, uri=str(broken)), run=replace(config.run, name="bad"))
    bad = Path(pretrain(config, say=_quiet).folder)
    assert digests(good) == digests(bad)
    same = np.isclose(losses(good), losses(bad), rtol=1e-12)
    first = int(np.argmin(same))
    assert first > 0 and same[:first].all() and not same.all()


def test_too_many_bad_images_stop_the_run_with_their_list(odd: Path, tmp_path: Path) -> None:
    config = tiny_config(odd, tmp_path, name="strict")
    config = replace(config, data=replace(config.data, max_bad_fraction=0.01, max_pixels=10_000_000))
    with pytest.raises(ValueError, match=r"[345] of \d+ images are bad.*max-bad-fraction 0.01"):
        pretrain(config, say=_quiet)
    page = (tmp_path / "strict" / "report" / "index.html").read_text()
    assert "images are bad" in page and 'id="bad"' in page and (tmp_path / "strict" / "report" / "bad.json").exists()
    for _ in range(2):  # and stop it again, before it trains on
        with pytest.raises(ValueError, match="images are bad"):
            pretrain(config, say=_quiet)


def test_images_that_cannot_be_had_are_replaced_like_those_that_do_not_decode(images: Path, tmp_path: Path) -> None:
    """The run with files that are gone equals the one whose files are broken, whoever reads."""
    curves = []
    for name in ("broken", "gone"):
        mine = tmp_path / name
        shutil.copytree(images, mine)
        config = tiny_config(mine, tmp_path / "runs", name=name, max_steps=4)
        config = replace(config, data=replace(config.data, max_bad_fraction=0.5))
        pretrain(config, say=_quiet)
        for i, path in enumerate(sorted(mine.glob("[34]/*.png"))):
            size = path.stat().st_size
            path.unlink()
            if name == "broken":
                path.write_bytes(bytes(size))
            elif i % 3 == 1:
                path.mkdir()
            elif i % 3 == 2:
                path.symlink_to("nowhere.png")
        folder = Path(pretrain(replace(config, run=replace(config.run, max_steps=20)), say=_quiet).folder)
        curves.append(losses(folder))
        reasons = {json.loads(line)["reason"] for line in (folder / "bad_images.jsonl").read_text().splitlines()}
        assert len(reasons) == (1 if name == "broken" else 3), reasons
        assert metrics(folder)[-1]["data/bad_images"] > 30
        evaluations = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
        assert [line["step"] for line in evaluations] == [0, 20]
        assert evaluations[-1]["eval/bad_images"] > 0 and "eval/bad_images" not in evaluations[0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-12)


def test_a_quarter_of_bad_images_in_groups_of_two_does_not_end_a_run_below_its_limit(
    images: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "quarter"
    shutil.copytree(images, mine)
    for path in sorted(mine.glob("*/*.png"))[::4]:
        path.write_bytes(b"no image")
    config = tiny_config(mine, tmp_path, max_steps=12)
    config = replace(config, optim=replace(config.optim, bn_groups=12), data=replace(config.data, max_bad_fraction=0.5))
    whole = Path(pretrain(config, say=_quiet).folder)
    assert np.isfinite(losses(whole)).all() and len(losses(whole)) == 12
    for steps in (5, 12):  # and through a resume
        cut = replace(config, run=replace(config.run, name="cut", max_steps=steps))
        resumed = Path(pretrain(cut, say=_quiet).folder)
    np.testing.assert_allclose(losses(resumed), losses(whole), rtol=1e-12)
    assert digests(resumed) == digests(whole)


def test_a_data_folder_that_is_not_mounted_stops_the_run_and_makes_no_image_bad(images: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mounted" / "images"
    shutil.copytree(images, mine)
    config = tiny_config(mine, tmp_path / "runs", max_steps=2)
    config = replace(config, data=replace(config.data, max_bad_fraction=1.0))
    folder = Path(pretrain(config, say=_quiet).folder)
    longer = replace(config, run=replace(config.run, max_steps=20))
    mine.rename(tmp_path / "elsewhere")
    for _ in range(2):  # the folder is not there; its mount point is there, and empty
        with pytest.raises(ValueError, match=r"png: there is no such file.* none of the \d+ others .*--data\.uri"):
            pretrain(longer, say=_quiet)
        mine.mkdir(exist_ok=True)
    mine.rmdir()
    (tmp_path / "elsewhere").rename(mine)
    assert pretrain(longer, say=_quiet).step == 20
    assert (folder / "bad_images.jsonl").read_text() == ""
