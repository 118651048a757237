"""Files on a local disk or in an object store: access, retries, and errors that say what to do."""
