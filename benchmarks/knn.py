"""How long an evaluation classifies: python -m benchmarks.knn [--json FILE] [--repeats N].

10,000 queries against a bank of 50,000 images, 512 features, k = 200, some queries in the bank. Goals: 1 s on a GPU, 5 s on
two cores, of which the products of float32 matrices alone take about 4.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.harness import Row, at_most, finish, interleave
from moco_ray.evaluate.knn import knn_top1

_SECONDS = {"cuda": 1.0, "cpu": 5.0}
_DIM, _CLASSES, _SHARED = 512, 10, 100


def knn_row(device: torch.device, *, num_queries: int = 10_000, num_bank: int = 50_000, repeats: int = 3) -> Row:
    """Seconds of one classification against the most that it may take."""
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, _DIM, generator=generator).to(device) for n in (num_bank, num_queries))
    labels = [torch.randint(_CLASSES, (n,), generator=generator).to(device) for n in (num_bank, num_queries)]
    ids = torch.arange(num_bank + num_queries)

    def classify() -> None:
        knn_top1(  # its result is a number, which waits for a GPU
            bank,
            labels[0],
            queries,
            labels[1],
            num_classes=_CLASSES,
            bank_ids=ids[:num_bank],
            query_ids=ids[num_bank - _SHARED : -_SHARED],
        )

    seconds = interleave({"knn": classify}, repeats)["knn"]
    limit = _SECONDS[device.type]
    return at_most(f"kNN of {num_queries:,} images against {num_bank:,}", seconds, limit, "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=3, help="times")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    finish([knn_row(device, repeats=args.repeats)], args.json)


if __name__ == "__main__":
    main()
