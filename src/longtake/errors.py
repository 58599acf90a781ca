"""The errors that LongTake raises on purpose: what a caller may catch, and what the command line prints in one line."""


class LongTakeError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with 1."""


class KernelUnavailableError(LongTakeError):
    """A Triton program was asked for by name where it cannot run. The message says which one and why."""


class InputError(LongTakeError):
    """What the user gave cannot be used: a file, an option, a question. The command line exits with 2."""


class MediaError(InputError):
    """A media file cannot be used. The message names the file and the reason."""


class CheckpointError(InputError):
    """A model directory is missing, incomplete, or not what its config says."""


class IndexMismatchError(InputError):
    """An index was written by another model or format version than the one in use."""


class IndexLockedError(LongTakeError):
    """Another process is writing to the index."""
