"""The one error of the benchmarks."""


class InvalidRunError(Exception):
    """A run has no figure; the sentence says why and stands in the report in its place."""
