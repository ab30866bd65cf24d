"""Errors that a user can mend; the tools show their message alone.

Each is raised where the cause is known, and also is of the built-in type that
callers of the package expect. All other errors keep their traceback.
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
