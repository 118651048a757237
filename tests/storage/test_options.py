"""Storage options: what is read, what is refused, and that no message shows a key."""

from __future__ import annotations

import codecs
import json
import time
from pathlib import Path

import pytest

from moco_ray.cli.presets import load_preset
from moco_ray.cli.pretrain import main, parse
from moco_ray.config import to_json
from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.web import web_server

_HUSH = "hush-hush"


@pytest.mark.parametrize(
    "text",
    [
        "\"{'key': '" + _HUSH * 60 + "'}\"",
        f"key={_HUSH},token=" + "t" * 5000,
        json.dumps([_HUSH] * 100),
        f"/{_HUSH}\0" + "x" * 300,
        f"{_HUSH}\n" * 99,
        f"~nobody/{_HUSH}",
        _HUSH + "\udcff" * 300,
        '{"key": "' + _HUSH,
        '{"' + _HUSH + '": ' * 20_000,
        "{" + '"a":{' * 100_000 + _HUSH,
        '{"' + _HUSH + '": ' + "1" * 5000 + "}",
    ],
)
@pytest.mark.parametrize("field", ["data", "run"])
def test_no_message_shows_the_value(text: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "smoke", "--data.uri", str(tmp_path), "--run.num-workers", "0", "--dry-run"]
    assert main([*arguments, f"--{field}.storage-options", text]) == 2
    said = "".join(capsys.readouterr())
    assert _HUSH not in said and f"--{field}.storage-options: storage-options is" in said


def test_a_stray_json_object_is_not_shown() -> None:
    with pytest.raises(ValueError, match="a JSON object belongs to no flag") as caught:
        parse(["--data.uri", "s3://bucket/images", '{"key": "' + _HUSH + '"}'])
    assert _HUSH not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_options_is_read_in_any_unicode(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_bytes('{"headers": {"X": "é"}}'.encode(encoding))
    assert resolve_storage_options("http://host/a", str(path)).values == {"headers": {"X": "é"}}


@pytest.mark.parametrize("content", [b"{bad", b"", b"[1]", codecs.BOM_UTF8 + b"\xff\xfe", b'{"a": "\xff"}'])
@pytest.mark.parametrize("preset", ["smoke", "http://127.0.0.1:1/config.json", "config.json"])
def test_a_bad_file_and_its_flag_are_named(
    content: bytes, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(to_json(load_preset("smoke")))
    Path("own.json").write_bytes(content)
    arguments = ["--preset", preset, "--data.uri", str(tmp_path), "--run.num-workers", "0", "--data.storage-options"]
    assert main([*arguments, "own.json"]) == 2
    said = "".join(capsys.readouterr().err.replace("│", "").split())
    assert "--data.storage-options:storage-options:thefile" in said and "own.json" in said
    assert main([*arguments, "missing.json"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "--data.storage-options: storage-options is neither" in said and "there is no such file" in said


def test_options_of_s3_do_not_reach_an_http_preset(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(load_preset("smoke")))
    keys = json.dumps({"key": "a", "secret": "b", "client_kwargs": {"region_name": "x"}})
    with web_server(tmp_path) as address:
        arguments = ["--preset", f"{address}/config.json", "--data.storage-options"]
        assert parse([*arguments, keys]).config.preset == "smoke"
        other = [*arguments, '{"no_such": 1}', "--data.uri", "s3://bucket/images"]
        assert parse(other).config.preset == "smoke"
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"no_such.*check the storage options"):
            parse([*arguments, '{"no_such": 1}'])
        assert time.monotonic() - start < 5


def test_a_type_error_is_no_passing_failure(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path), resolve_storage_options(str(tmp_path), None))
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise TypeError("unexpected keyword argument 'x'")

    with pytest.raises(ValueError, match="unexpected keyword argument 'x'; check the storage options"):
        storage.retry(str(tmp_path / "a"), work)
    assert len(tries) == 1
