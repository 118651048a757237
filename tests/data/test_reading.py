"""Reading: bytes in the order asked for, bad images told apart from a storage that cannot be read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from moco_ray.data.decode import BadImage
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.reading import read_rows
from moco_ray.storage import storage as storage_module
from moco_ray.storage.storage import ReadError, Storage, StorageOptions, resolve_storage_options
from tests.data.test_manifest import files_manifest, options, parquet_bytes, parquet_manifest
from tests.faults import Fault, FaultyProxy
from tests.s3 import S3Server
from tests.storage.test_storage import NAMES

NO_OPTIONS = StorageOptions({})


def _local(folder: Path, names: str = "abcdefgh") -> Manifest:
    """Files that hold their names, listed before anything happens to them."""
    return files_manifest(Storage.open(str(folder), NO_OPTIONS), [f"{name}.jpg" for name in names])


def _told(manifest: Manifest, rows: np.ndarray, access: StorageOptions = NO_OPTIONS) -> dict[int, str]:
    """The reasons of the bad ones by row; all others must hold their names."""
    reasons = {}
    for row, content in zip(rows, read_rows(manifest, rows, access), strict=True):
        if isinstance(content, BadImage):
            reasons[int(row)] = str(content)
        else:
            assert content == str(manifest.table["uri"][int(row)]).rsplit("/", 1)[1].encode()
    return reasons


def test_rows_are_read_in_the_order_asked_for(folder: Storage) -> None:
    manifest = files_manifest(folder, NAMES)
    rows = np.array([3, 0, 3, len(NAMES) - 1, 7])
    assert read_rows(manifest, rows, options(folder)) == [NAMES[row].encode() for row in rows]
    assert read_rows(manifest, rows[:0], options(folder)) == []


@pytest.mark.parametrize("is_struct", [False, True])
def test_parquet_rows_are_read_in_the_order_asked_for(folder: Storage, is_struct: bool) -> None:
    manifest = parquet_manifest(folder, [4, 4, 2], is_struct)
    rows = np.array([19, 0, 5, 5, 10, 9])
    assert read_rows(manifest, rows, options(folder)) == [b"b9", b"a0", b"a5", b"a5", b"b0", b"a9"]


def test_a_file_that_is_gone_has_changed_or_is_cut_off_is_a_bad_image(folder: Storage) -> None:
    manifest = files_manifest(folder, ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    folder.delete(folder.join("b.jpg"))
    folder.write_bytes(folder.join("c.jpg"), b"longer than before")
    folder.write_bytes(folder.join("d.jpg"), b"d.j")
    assert _told(manifest, np.array([4, 3, 2, 1, 0, 1]), options(folder)) == {
        1: "there is no such file or folder",
        2: "has 18 bytes, 5 when it was listed: it has changed since",
        3: "has 3 bytes, 5 when it was listed: it has changed since",
    }


def test_whatever_else_bears_the_name_of_a_file_is_a_bad_image(tmp_path: Path) -> None:
    manifest = _local(tmp_path)
    for name in "abcdefg":
        (tmp_path / f"{name}.jpg").unlink()
    (tmp_path / "a.jpg").mkdir()
    os.mkfifo(tmp_path / "b.jpg")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "c.jpg"))
    (tmp_path / "d.jpg").symlink_to("/dev/zero")
    (tmp_path / "e.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "f.jpg").symlink_to("f.jpg")
    (tmp_path / "g.jpg").symlink_to("h.jpg/g.jpg")
    start = time.monotonic()
    told = _told(manifest, np.arange(8))
    server.close()
    assert told == {
        0: "a folder, no file",
        1: "a pipe, no file",
        2: "a socket, no file",
        3: "a device, no file",
        4: "a link to nowhere.jpg, which is not there",
        5: "a link that leads back to itself",
        6: "Not a directory",
    }
    assert time.monotonic() - start < 5


def test_a_disk_that_fails_for_one_file_alone_makes_it_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "_FIRST_PATIENCE_S", 0.5)
    manifest = _local(tmp_path)
    (tmp_path / "c.jpg").unlink()
    (tmp_path / "c.jpg").symlink_to("/proc/self/mem")  # reading at 0 is an input/output error
    told = _told(manifest, np.arange(8))
    assert told.keys() == {2} and "Input/output error" in told[2]


_AS_NOBODY = """
import os, sys
import numpy as np
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.storage.storage import Storage, StorageOptions
options = StorageOptions({})
folder = Storage.open(sys.argv[1], options)
manifest = Manifest.read(folder, folder.join("manifest.parquet"))
os.setuid(65534)
try:
    print([str(content) for content in read_rows(manifest, np.arange(8), options)])
except ValueError as error:
    print(error)
"""


def _read_as_nobody(manifest: Manifest, folder: Path) -> str:
    manifest.write(Storage.open(str(folder), NO_OPTIONS), f"{folder}/manifest.parquet")
    for above in (folder, *folder.parents):
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o111)
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_without_permission_is_a_bad_image_unless_no_other_can_be_read(tmp_path: Path) -> None:
    manifest = _local(tmp_path)
    (tmp_path / "c.jpg").chmod(0)
    said = _read_as_nobody(manifest, tmp_path)
    assert said.count("access is refused (") == 1 and "b'd.jpg'" in said
    for path in tmp_path.glob("*.jpg"):
        path.chmod(0)
    said = _read_as_nobody(manifest, tmp_path)
    assert "access is refused" in said and "is the disk mounted" in said.lower()


def test_a_folder_from_which_everything_is_gone_makes_no_image_bad(folder: Storage) -> None:
    manifest = files_manifest(folder, [f"{i}/{i}.jpg" for i in range(100)])
    for i in range(100):
        folder.delete(folder.join(str(i)))
    with pytest.raises(ValueError, match=r"no such file.* none of the 6\d others .* --data\.uri"):
        read_rows(manifest, np.array([7, 8]), options(folder))
    folder.write_bytes(folder.join("0", "0.jpg"), b"0/0.jpg")  # one that is there, of those that are tried
    assert all(isinstance(content, BadImage) for content in read_rows(manifest, np.array([7, 8]), options(folder)))


def test_a_bucket_that_is_gone_or_refused_makes_no_image_bad(s3: S3Server) -> None:
    uri = f"s3://{s3.bucket}/kept"
    manifest = files_manifest(Storage.open(uri, resolve_storage_options(uri, None)), ["a.jpg", "b.jpg"])
    table = manifest.table.set_column(
        0, "uri", [[name.replace(s3.bucket, "no-such-bucket") for name in manifest.table["uri"].to_pylist()]]
    )
    gone = Manifest(table, "files", None, ())
    with pytest.raises(ValueError, match=r"no-such-bucket.* none of the 1 others"):
        read_rows(gone, np.array([0]), resolve_storage_options(uri, None))
    wrong = resolve_storage_options(uri, '{"key": "the-access-key", "secret": "wrong"}')
    with pytest.raises(ValueError, match=r"access is refused.*check credentials"):
        read_rows(manifest, np.array([0]), wrong)


@pytest.mark.parametrize("kind", ["reset", "internal_error", "slow_down"])
def test_a_server_that_does_not_answer_makes_no_image_bad(
    kind: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_PATIENCE_S", 0.5)
    uri = f"s3://{s3.bucket}/{kind}"
    manifest = files_manifest(Storage.open(uri, resolve_storage_options(uri, None)), ["a.jpg", "b.jpg"])
    proxy = FaultyProxy(s3.endpoint, 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    access = resolve_storage_options(uri, '{"config_kwargs": {"retries": {"total_max_attempts": 1}}}')
    proxy.faults = [Fault(kind=kind, path="a.jpg")]  # type: ignore[arg-type]
    with pytest.raises(ReadError, match=r"a\.jpg"):
        read_rows(manifest, np.array([0, 1]), access)
    proxy.faults = [Fault(kind=kind, path="a.jpg", count=1)]  # type: ignore[arg-type]
    assert read_rows(manifest, np.array([0, 1]), access) == [b"a.jpg", b"b.jpg"]
    proxy.down()


def _rows_of(folder: Storage, images: list[bytes | None], is_struct: bool = False) -> Manifest:
    folder.write_bytes(folder.join("a.parquet"), parquet_bytes(images, 2, is_struct))
    return make_manifest(
        uris=[folder.uri(folder.join("a.parquet"))] * len(images),
        labels=np.full(len(images), -1),
        classes=(),
        row_groups=np.arange(len(images)) // 2,
        rows_in_group=np.arange(len(images)) % 2,
        image_column="image",
    )


@pytest.mark.parametrize("is_struct", [False, True])
def test_a_null_cell_is_a_bad_image(folder: Storage, is_struct: bool) -> None:
    manifest = _rows_of(folder, [b"1", None, b"", b"3"], is_struct)
    one, null, empty, three = read_rows(manifest, np.arange(4), options(folder))
    assert (one, empty, three) == (b"1", b"", b"3")
    assert isinstance(null, BadImage) and "null" in str(null)


def test_a_row_group_that_does_not_decode_makes_its_rows_bad_and_no_others(folder: Storage) -> None:
    manifest = _rows_of(folder, [bytes([i]) * 3000 for i in range(8)])
    path = folder.join("a.parquet")
    content = bytearray(folder.read_bytes(path))
    at = content.index(bytes([4]) * 20)  # in the pages of row group 2
    content[at - 60 : at + 2000] = b"\xff" * 2060
    folder.write_bytes(path, bytes(content))
    found = read_rows(manifest, np.arange(8), options(folder))
    assert [isinstance(image, BadImage) for image in found] == [i in (4, 5) for i in range(8)]
    assert "row group 2 cannot be read" in str(found[4])


def test_rows_of_a_parquet_file_that_changed_or_is_gone_are_bad(folder: Storage) -> None:
    manifest = parquet_manifest(folder, [4, 4])  # rows 0 to 7 of a, 8 to 15 of b
    folder.write_bytes(folder.join("b.parquet"), parquet_bytes([b"1", b"2"], 2))
    good, few, none = read_rows(manifest, np.array([1, 11, 12]), options(folder))
    assert good == b"a1"
    assert "has 2 rows now" in str(few) and "row group 1 cannot be read" in str(none)
    folder.delete(folder.join("b.parquet"))
    good, gone = read_rows(manifest, np.array([1, 11]), options(folder))
    assert good == b"a1" and str(gone) == "there is no such file or folder"
    folder.write_bytes(folder.join("b.parquet"), b"no Parquet")
    assert "cannot be read" in str(read_rows(manifest, np.array([8]), options(folder))[0])
    folder.delete(folder.join("a.parquet"))
    folder.delete(folder.join("b.parquet"))
    with pytest.raises(ValueError, match=r"[ab]\.parquet: there is no such file.*mounted"):
        read_rows(manifest, np.array([0]), options(folder))
