"""A preset by its name, or the configuration of a run by the place of its config.json."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from moco_ray.config import Config, from_json
from moco_ray.config.paths import as_uri, local_path
from moco_ray.config.presets import PRESETS
from moco_ray.config.resembling import most_like, plain


def load_preset(name: str | os.PathLike[str], storage_options: str | None = None) -> Config:
    """Make the configuration of a preset, or read that of a run from its config.json.

    Args:
        name: Of a preset, or the path or URL of a config.json (or of a sweep's best.json).
        storage_options: Access to a URL: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Raises:
        ValueError: There is no such preset and no such file.
    """
    name = str(as_uri("preset", name))
    if name in PRESETS:
        return PRESETS[name]()
    if _is_file(name):
        config = from_json(_text(name, storage_options), f"--preset {name}")
        return replace(config, run=replace(config.run, name=None))  # another run, not that one resumed
    close = _resembling(name)
    meant = (
        f"did you mean {' or '.join([', '.join(close[:-1]), close[-1]] if close[1:] else close)}? There"
        if close
        else "there"
    )
    raise ValueError(
        f"--preset {name!r} is unknown; {meant} are {', '.join(PRESETS)}, or the path of a run's config.json"
    )


def _is_file(name: str) -> bool:
    """Whether a name is that of a file, which need not be there, and of no preset."""
    if "://" in name or name.lower().endswith(".json"):
        return True
    path = Path(local_path(name))
    return path.is_file() or ("/" in name and not path.exists())


def _resembling(name: str) -> list[str]:
    """Presets that may be meant: those that begin with the name, else the one or two that are spelt like it."""
    if (Path(name).expanduser() / "config.json").is_file():
        return [str(Path(name) / "config.json")]
    begun = [preset for preset in PRESETS if plain(name) and plain(preset).startswith(plain(name))]
    close = most_like(name, PRESETS, cutoff=0.4)
    return begun or ([close] if close else [])


def _text(uri: str, storage_options: str | None) -> str:
    from moco_ray.storage.checks import check_access
    from moco_ray.storage.storage import Missing, Storage, resolve_storage_options  # it takes a while
    from moco_ray.storage.uris import is_local

    try:
        options = resolve_storage_options(uri, None if is_local(uri) else storage_options)
        check_access(uri, options)
        storage = Storage.open(uri, options, is_quick=True)
        return storage.read_bytes(storage.root).decode("utf-8-sig")
    except Missing:
        raise ValueError(f"--preset {uri}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"--preset {uri} is no text (byte {error.start} is no UTF-8)") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"--preset: {error}") from error
