"""Errors that a user can act on: every message says what is wrong and what to do."""


class MRFUNetError(Exception):
    """Base of all errors meant for users; anything else is a defect of the program."""


class InputError(MRFUNetError):
    """A volume that cannot be segmented, or a file that cannot be read."""


class CheckpointError(MRFUNetError):
    """A checkpoint that cannot be used."""


class DeviceError(MRFUNetError):
    """A device that this machine does not have."""


class OutputError(MRFUNetError):
    """A result that cannot be written."""


class WorkerError(MRFUNetError):
    """The process that computes ended or misbehaved; the message ends with its last log lines."""


class Cancelled(MRFUNetError):  # noqa: N818 - an outcome, not a fault
    """The user cancelled the run."""

    def __init__(self) -> None:
        super().__init__("The run was cancelled; nothing was changed.")


# How torch says so, on a GPU (also `torch.OutOfMemoryError`) and on the CPU of Linux and Windows,
# and how SimpleITK does.
_MEMORY_WORDS = (
    "out of memory", "alloc_failed", "can't allocate memory", "not enough memory",
    "failed to allocate memory",
)  # fmt: skip


def lacks_memory(error: Exception) -> bool:
    """Return whether an error of Python, NumPy, torch or SimpleITK says that memory is out."""
    text = str(error).lower()
    said = isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)
    return said or isinstance(error, MemoryError)


def too_little_memory() -> InputError:
    """Return the error of a volume that this machine has too little memory for."""
    return InputError(
        "This machine has too little memory for the volume. Close other programs, or crop the "
        "volume to the head (in Slicer: Crop Volume module)."
    )
