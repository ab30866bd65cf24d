import os
import signal

import pytest
from mmengine.hooks import Hook
from toy import toy_runner

from mmbiformer.reliable.loops import SkippedBatches
from mmbiformer.utils.errors import TrainingInterrupted


def test_batches_that_were_left_out_are_blank():
    """As mmengine's loop passes over them."""
    batches = SkippedBatches(2, iter('ab'))
    assert list(batches) == [None, None, 'a', 'b']


def test_the_forks_loop_skips_them_by_itself():
    batches = SkippedBatches(2, iter('ab'))
    batches.skip_iter(2)
    assert list(batches) == ['a', 'b']


class Batches(Hook):
    """Notes the index of each batch; may send a signal at an iteration."""

    def __init__(self, interrupt_at=None):
        self.seen = []
        self.interrupt_at = interrupt_at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(batch_idx)
        if runner.iter + 1 == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


def test_batches_keep_their_index_in_the_epoch(tmp_path):
    """Hooks that act every few iterations depend on it."""
    first, rest = Batches(interrupt_at=2), Batches()
    runner = toy_runner(tmp_path)
    runner.register_hook(first)
    with pytest.raises(TrainingInterrupted):
        runner.train()
    runner = toy_runner(tmp_path, resume=True)
    runner.register_hook(rest)
    runner.train()
    assert first.seen + rest.seen == 3 * [0, 1, 2, 3]
