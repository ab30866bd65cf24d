"""Errors that a user can correct, and the end of a run by a signal.

A :class:`UserError` is raised where the cause is known, and is also of the
built-in type that callers of the package expect. The tools show only its
message; all other errors keep their traceback.
"""


class UserError(Exception):
    """Something outside of the code is wrong; the message says what to do."""


class ConfigError(UserError, ValueError):
    """A setting, or an argument of the command line, is wrong."""


class DataError(UserError, ValueError):
    """A data set, or one of its files, is wrong or does not fit the config."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, is refused, or is of another model."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is to be read does not exist."""


class OutputError(UserError, OSError):
    """A file or folder cannot be written, or would be overwritten."""


class NonFiniteError(UserError, FloatingPointError):
    """The loss, its gradients or the weights are not finite."""


class PipelineError(RuntimeError):
    """A step of a data pipeline failed on an image, which the message names.

    The cause is not known: it may be the code of the step.
    """


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a run in order.

    Args:
        signum (int): The signal.
        message (str): Where the run was, and how to resume it. Default:
            ``''``.
    """

    def __init__(self, signum: int, message: str = '') -> None:
        super().__init__(message)
        self.signum = signum
