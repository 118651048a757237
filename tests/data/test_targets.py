"""Several labels an image: what a cell may say, and what is said of one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.sources import list_source
from moco_ray.data.targets import read_targets
from moco_ray.data.text_tables import Table
from moco_ray.storage.storage import Storage
from tests.data.test_manifest import options


def _table(cells: list[object], twice: frozenset[str] = frozenset()) -> Table:
    return Table(columns={"uri": ["x"] * len(cells), "a": cells}, lines=range(2, 2 + len(cells)), twice=twice)


def test_cells_are_yes_no_or_unknown() -> None:
    cells: list[object] = ["1", "1.0", " True ", "yes", 1, 1.0, True, "0", "no", False, "", "-1", "-1.0", "NaN", None]
    found = [row[0] for row in read_targets("list.csv", _table(cells), ["a"])]
    np.testing.assert_array_equal(found, [1] * 7 + [0] * 3 + [np.nan] * 5)


@pytest.mark.parametrize(
    ("cells", "columns", "said"),
    [
        (["1", "maybe"], ["a"], r"list.csv, line 3: 'a' is 'maybe'; write 1 for .* 0 for .* nothing or -1"),
        (["1"], ["b"], r"list.csv has no column 'b'; its columns are uri, a"),
        (["0.5"], ["a"], r"line 2: 'a' is '0.5'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(cells: list[object], columns: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_targets("list.csv", _table(cells), columns)


def test_a_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two columns of the name 'a'"):
        read_targets("list.csv", _table(["1"], twice=frozenset({"a"})), ["a"])


@pytest.mark.parametrize("folder", ["local"], indirect=True)
def test_a_list_gives_its_targets_row_by_row(folder: Storage) -> None:
    lines = ["uri,one,other", "b.png,1,", "a.png,0,1", "c.png,-1,0"]
    for name in "abc":
        folder.write_bytes(folder.join(f"{name}.png"), b"x")
    folder.write_bytes(folder.join("list.csv"), "\n".join(lines).encode())
    config = DataConfig(uri=folder.uri(folder.join("list.csv")), target_columns=("other", "one"))
    train = list_source(config, options(folder)).train
    found = {train.uri(i)[-5:]: row.tolist() for i, row in enumerate(train.targets(np.arange(3)) or [])}
    nan = pytest.approx(np.nan, nan_ok=True)
    assert found == {"b.png": [nan, 1], "a.png": [1, 0], "c.png": [0, nan]}
    assert train.target_names == ("other", "one") and (train.labels == -1).all()
