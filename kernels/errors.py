"""The base of the errors that LongTake raises on purpose, and the kernels' own."""


class LongTakeError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with 1."""


class KernelUnavailableError(LongTakeError):
    """A Triton program was asked for by name where it cannot run. The message says which one and why."""
