"""A run kept in a bucket: push, fetch, the index and the process beside a run."""
