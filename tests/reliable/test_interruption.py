"""How a signal ends a run, and what the processes that it forks see."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset
from toy import At, toy_runner

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)
from mmbiformer.reliable.batches import RunDataLoader, shield_workers
from mmbiformer.reliable.interruption import SIGNALS, Interruption
from mmbiformer.utils.errors import TrainingInterrupted


def names(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def load(path):
    return torch.load(path, weights_only=True)


class TestInterruption:
    """A signal ends training in order, with its state saved."""

    @pytest.fixture
    def whole(self, tmp_path):
        runner = toy_runner(tmp_path / 'whole')
        runner.train()
        return load(tmp_path / 'whole/epoch_3.pth')

    @pytest.mark.parametrize(
        ('iteration', 'mode', 'left'),
        [
            (2, 'train', 'interrupted.pth'),
            (4, 'train', 'epoch_1.pth'),
            (7, 'train', 'interrupted.pth'),
            (8, 'val', 'epoch_2.pth'),
        ],
    )
    @pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
    def test_the_state_is_saved(
        self, tmp_path, whole, signum, iteration, mode, left
    ):
        work_dir = tmp_path / 'run'
        runner = toy_runner(work_dir)
        before = signal.getsignal(signum)
        runner.register_hook(
            At(iteration, lambda: os.kill(os.getpid(), signum), mode)
        )
        with pytest.raises(TrainingInterrupted) as interrupted:
            runner.train()
        assert interrupted.value.signum == signum
        assert f'after iteration {iteration}' in str(interrupted.value)
        assert f'{work_dir}/{left}' in str(interrupted.value)
        assert (work_dir / left).is_file()
        assert signal.getsignal(signum) == before

        resumed = toy_runner(work_dir, resume=True)
        seen = []
        resumed.register_hook(
            At(iteration + 1, lambda: seen.append(resumed.epoch))
        )
        resumed.train()
        assert seen == [iteration // 4]
        assert 'interrupted.pth' not in names(work_dir)
        last = load(work_dir / 'epoch_3.pth')
        for kind in ('state_dict', 'ema_state_dict'):
            for name, value in whole[kind].items():
                assert torch.equal(value, last[kind][name]), name

    def test_a_second_signal_ends_at_once(self, tmp_path):
        runner = toy_runner(tmp_path)

        def twice():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        runner.register_hook(At(2, twice))
        with pytest.raises(TrainingInterrupted, match='without saving'):
            runner.train()
        assert names(tmp_path) == []


def signal_state():
    """The signals of this process: their handlers, and what is blocked."""
    handlers = [signal.getsignal(signum) for signum in SIGNALS]
    return handlers, signal.pthread_sigmask(signal.SIG_BLOCK, [])


class TestChildren:
    """Processes that are forked during a run are as without one."""

    @pytest.mark.parametrize('in_a_thread', [False, True])
    def test_they_have_the_handlers_from_before(self, in_a_thread):
        queue = multiprocessing.get_context('fork').SimpleQueue()
        before = signal_state()

        def fork():
            child = os.fork()
            if not child:
                queue.put(signal_state() == before)
                os._exit(0)
            os.waitpid(child, 0)

        with Interruption(), Interruption():
            ours = signal_state()
            if in_a_thread:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join()
            else:
                fork()
            assert queue.get()
            assert signal_state() == ours != before
        assert signal_state() == before

    def test_sigterm_ends_those_of_a_validation(self, tmp_path):
        """A pool sends it to its workers, and waits for their end."""
        runner = toy_runner(tmp_path)
        ended = []

        def evaluate():
            process = multiprocessing.get_context('fork').Process(
                target=time.sleep, args=(60,)
            )
            process.start()
            process.terminate()
            process.join(20)
            ended.append(process.exitcode)
            process.kill()

        runner.register_hook(At(4, evaluate, 'val'))
        runner.train()
        assert set(ended) == {-signal.SIGTERM}

    def test_ctrl_c_does_not_reach_workers_that_start(self):
        """They have the process group of the terminal for a moment."""
        config = dict(
            dataset=HeldBack(),
            sampler=dict(type='DefaultSampler'),
            num_workers=2,
        )
        loader = Runner.build_dataloader(shield_workers(config, 0), seed=0)
        loader.__class__ = RunDataLoader
        multiprocessing.util.register_after_fork(
            loader, lambda _: os.kill(os.getpid(), signal.SIGINT)
        )
        with Interruption():
            found = [int(batch[0]) for batch in loader]
        # Once they have started, it reaches those who send it to them.
        assert found == [0, 0]


class HeldBack(Dataset):
    """Tells whether Ctrl-C is held back from the worker that loads it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return int(signal.SIGINT in blocked | signal.sigpending())
