"""The page of all runs: a small server that reads run folders and writes nothing."""
