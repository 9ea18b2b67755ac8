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
