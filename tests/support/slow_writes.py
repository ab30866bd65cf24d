"""A hook that slows down the writing of checkpoints."""

import time

from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


# pytest may import a module twice, under two names.
@HOOKS.register_module(force=True)
class SlowWrites(Hook):
    """Writes files in two halves with a pause between them, while training.

    For ``custom_hooks`` of a config, so that a test can kill the run in the
    middle of a write. Importing this module changes nothing.
    """

    def before_train(self, runner):
        """Replace how mmengine writes files in this process."""
        self._put = LocalBackend.put
        LocalBackend.put = _put_in_halves

    def after_train(self, runner):
        """Restore how mmengine writes files."""
        LocalBackend.put = self._put


def _put_in_halves(self, obj, filepath):
    half = len(obj) // 2
    with open(filepath, 'wb') as file:
        file.write(obj[:half])
        file.flush()
        time.sleep(0.3)
        file.write(obj[half:])
