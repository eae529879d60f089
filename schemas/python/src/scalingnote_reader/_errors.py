"""What can go wrong with a snapshot. A query that makes no sense is a ValueError instead."""


class SnapshotError(Exception):
    """A snapshot that cannot be read."""


class NotFoundError(SnapshotError):
    """There is no such snapshot, or a file of it is gone."""


class CorruptError(SnapshotError):
    """A file is not the one that was published, or does not answer as it did when it was built."""


class UnsupportedError(SnapshotError):
    """A newer release wrote it, or a package is missing that reading it takes."""
