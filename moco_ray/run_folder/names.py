"""Names of the files by which a folder is known for that of a run or a sweep."""

MANIFEST, EVAL_MANIFEST, CONFIG = "manifest.parquet", "eval_manifest.parquet", "config.json"
LINEAGE = "lineage.jsonl"
SWEEP = "sweep.json"
TRACKING = "tracking.json"


def record_of(trial: str) -> str:
    """Path, in a sweep's folder, of what it has noted of a trial."""
    return f"trials/{trial}.json"
