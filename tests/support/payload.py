"""Checkpoints that would do something when they are loaded."""

import os


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Payload(Call):
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        super().__init__(os.mkdir, str(path))
