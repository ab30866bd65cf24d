"""What stops a run, and what is on disk then."""

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from toy import ToyDataset, toy_runner

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)
from mmbiformer.reliable.batches import RunDataLoader, shield_workers
from mmbiformer.reliable.hooks import (
    SIGNALS,
    Interruption,
    LabelCheck,
    SafeLoggerHook,
)
from mmbiformer.utils.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    TrainingInterrupted,
)


def names(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def load(path):
    return torch.load(path, weights_only=True)


class At(Hook):
    """Do something at an iteration, or in a validation."""

    def __init__(self, iteration, action, mode='train'):
        self.iteration = iteration
        self.action = action
        self.mode = mode

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.mode == 'train' and runner.iter + 1 == self.iteration:
            self.action()

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.mode == 'val' and runner.iter == self.iteration:
            self.action()


class TestNumbers:
    """Training stops where numbers are no longer finite."""

    def test_a_loss_names_iteration_images_and_checkpoint(self, tmp_path):
        runner = toy_runner(tmp_path)
        dataset = runner.train_dataloader.dataset
        assert isinstance(dataset, ToyDataset)
        runner.register_hook(At(6, lambda: setattr(dataset, 'broken', 5)))
        with pytest.raises(NonFiniteError) as error:
            runner.train()
        message = str(error.value)
        iteration, files = re.search(
            r'iteration (\d+) .*loss: nan.* Its images: (.*?)\. The', message
        ).groups()
        assert 6 <= int(iteration) <= 8 + 4
        assert '5.png' in files
        assert f'good checkpoint: {tmp_path}/epoch_' in message
        for name in names(tmp_path):
            weights = load(tmp_path / name)['state_dict']
            assert all(value.isfinite().all() for value in weights.values())

    def test_the_norm_of_gradients(self, tmp_path):
        runner = toy_runner(
            tmp_path, **{'optim_wrapper.clip_grad': dict(max_norm=1.0)}
        )
        runner.model.linear.weight.register_hook(lambda g: g * float('inf'))
        with pytest.raises(NonFiniteError, match='iteration 1 .*grad_norm'):
            runner.train()
        assert names(tmp_path) == []

    @pytest.mark.parametrize('name', ['linear.bias', 'norm.running_var'])
    def test_weights_are_not_saved(self, tmp_path, name):
        runner = toy_runner(tmp_path)
        value = runner.model.state_dict()[name]
        # After the last forward pass of the second epoch.
        hook = At(8, lambda: None)
        hook.after_train_iter = lambda runner, *_, **__: (
            runner.iter == 7 and value.fill_(float('nan'))
        )
        runner.register_hook(hook)
        with pytest.raises(NonFiniteError, match=re.escape(name)):
            runner.train()
        assert names(tmp_path) == ['epoch_1.pth']


class TestCheckpoints:
    """Old ones go when the new one is there."""

    def test_one_is_kept_while_the_next_is_written(self, tmp_path):
        runner = toy_runner(
            tmp_path,
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook', interval=1, max_keep_ckpts=1
                )
            ),
        )
        seen = []

        class Watch(Hook):
            def before_save_checkpoint(self, runner, checkpoint):
                seen.append(names(tmp_path))

        runner.register_hook(Watch())
        runner.train()
        assert seen == [[], ['epoch_1.pth'], ['epoch_2.pth']]
        assert names(tmp_path) == ['epoch_3.pth']
        last = (tmp_path / 'last_checkpoint').read_text()
        assert last == str(tmp_path / 'epoch_3.pth')

    @pytest.mark.parametrize('metrics', ['acc', ['acc', 'mIoU']])
    def test_the_best_goes_when_a_better_one_is_there(self, tmp_path, metrics):
        runner = toy_runner(
            tmp_path,
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook',
                    interval=1,
                    max_keep_ckpts=1,
                    save_best=metrics,
                )
            ),
            **{'val_evaluator.values': [1, 3, 2]},
        )
        seen = []

        class Watch(Hook):
            def before_save_checkpoint(self, runner, checkpoint):
                if 'optimizer' not in checkpoint:
                    seen.append(names(tmp_path))

        runner.register_hook(Watch())
        runner.train()
        assert ['best_acc_epoch_1.pth', 'epoch_2.pth'] in [
            [name for name in every if 'mIoU' not in name] for every in seen
        ]
        best = ['best_acc_epoch_2.pth']
        if len(metrics) == 2:
            best.append('best_mIoU_epoch_1.pth')
        assert names(tmp_path) == [*best, 'epoch_3.pth']

    def test_a_full_disk_leaves_the_older_ones(self, tmp_path):
        runner = toy_runner(tmp_path)
        size = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        class Full(Hook):
            def before_save_checkpoint(self, runner, checkpoint):
                if runner.epoch == 1:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, size[1]))

        runner.register_hook(Full())
        try:
            with pytest.raises(OSError, match='File too large'):
                runner.train()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, size)
        assert names(tmp_path) == ['epoch_1.pth']
        assert not list(tmp_path.glob('.*'))
        load(tmp_path / 'epoch_1.pth')

    def test_a_full_file_system_is_said_to_be_full(self, tmp_path):
        """On a real one."""
        mount = tmp_path / 'small'
        mount.mkdir()
        command = ['mount', '-t', 'tmpfs', '-o', 'size=256k', 'none', mount]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip('mounting is not allowed')
        try:
            runner = toy_runner(mount / 'run')
            filler = mount / 'filler'

            def fill():
                with filler.open('wb', buffering=0) as file:
                    try:
                        while file.write(bytes(1024)):
                            pass
                    except OSError:
                        pass

            runner.register_hook(At(6, fill))
            with pytest.raises(OSError) as error:
                runner.train()
            message = str(error.value)
            assert 'No space left' in message
            assert f'good checkpoint: {mount}/run/epoch_1.pth' in message
            assert names(mount / 'run') == ['epoch_1.pth']
            filler.unlink()
            resumed = toy_runner(mount / 'run', resume=True)
            resumed.train()
            assert resumed.epoch == 3
        finally:
            # The log is open yet.
            subprocess.run(['umount', '--lazy', mount], check=True)


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
            dataset=[1, 2],
            sampler=dict(type='DefaultSampler'),
            num_workers=2,
            persistent_workers=True,
        )
        loader = Runner.build_dataloader(shield_workers(config, 0), seed=0)
        loader.__class__ = RunDataLoader
        multiprocessing.util.register_after_fork(
            loader, lambda _: os.kill(os.getpid(), signal.SIGINT)
        )
        with Interruption():
            assert sorted(int(batch[0]) for batch in loader) == [1, 2]
        # Once they have started, it reaches those who send it to them.
        worker = loader._iterator._workers[0]
        assert worker.is_alive()
        os.kill(worker.pid, signal.SIGINT)
        worker.join(30)
        assert not worker.is_alive()


def test_a_run_without_a_seed_goes_on_with_its_own(tmp_path):
    """mmengine would shuffle by a new one."""
    first = toy_runner(tmp_path, randomness=dict(seed=None))
    first.register_hook(At(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(TrainingInterrupted):
        first.train()
    second = toy_runner(tmp_path, randomness=dict(seed=None), resume=True)
    second.train()
    assert second.seed == first.seed
    sampler = second.train_dataloader.batch_sampler.sampler
    assert sampler.seed == first.seed


def test_every_iteration_draws_its_own(tmp_path):
    runner = toy_runner(tmp_path)
    drawn = []

    class Draw(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            drawn.append(float(torch.rand(())))

    runner.register_hook(Draw())
    runner.train()
    assert len(set(drawn)) == len(drawn) == 12


@pytest.mark.parametrize('rank', [0, 1])
def test_the_first_process_alone_writes_metrics(tmp_path, monkeypatch, rank):
    runner = toy_runner(tmp_path)
    (hook,) = (one for one in runner.hooks if type(one) is SafeLoggerHook)
    hook.before_run(runner)
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group: rank)
    log = Mock(get_log_after_epoch=Mock(return_value=(dict(mIoU=0.5), '')))
    hook.after_test_epoch(
        Mock(log_processor=log, test_dataloader=[0], log_dir=str(tmp_path))
    )
    assert len(list(tmp_path.glob('*.json'))) == (rank == 0)


class TestLabelCheck:
    def check(self, labels, many=False, **metainfo):
        """Check a label map of three classes as a batch of testing."""
        sample = SegDataSample(metainfo=dict(seg_map_path='a.png'))
        sample.gt_sem_seg = PixelData(data=torch.tensor([[labels]]))
        dataset = SimpleNamespace(metainfo=metainfo, ignore_index=7)
        runner = SimpleNamespace(
            test_dataloader=SimpleNamespace(dataset=dataset),
            model=torch.nn.Module(),
        )
        # As of a head.
        runner.model.ignore_index = 6
        batch = dict(data_samples=[[sample] if many else sample])
        LabelCheck().before_test_iter(runner, 0, batch)

    @pytest.mark.parametrize('many', [False, True])
    def test_values_that_are_no_class(self, many):
        classes = ('a', 'b', 'c')
        self.check([0, 2, 6, 7, 255], many, classes=classes)
        with pytest.raises(DataError, match=r'^a\.png holds .*\[3\]'):
            self.check([0, 3], many, classes=classes)

    def test_classes_that_are_not_known(self):
        self.check([0, 3])

    @pytest.mark.parametrize(
        ('kind', 'labels', 'size', 'fails'),
        [
            ('mmseg.CrossEntropyLoss', [0, 2], (1, 2), False),
            ('mmseg.CrossEntropyLoss', [0, 255], (1, 2), True),
            # By padding.
            ('mmseg.CrossEntropyLoss', [0, 2], (1, 3), True),
            ('WeightedCrossEntropyLoss', [0, 255], (1, 3), False),
        ],
    )
    def test_class_weights_of_ignored_pixels(self, kind, labels, size, fails):
        """The check agrees with what the head does."""
        head = FCNHead(
            in_channels=4,
            channels=4,
            num_convs=0,
            concat_input=False,
            num_classes=3,
            loss_decode=dict(type=kind, class_weight=[0.1, 1, 1]),
        )
        model = torch.nn.Module()
        model.data_preprocessor = SegDataPreProcessor(size=size)
        model.head = head
        sample = SegDataSample(metainfo=dict(seg_map_path='a.png'))
        sample.gt_sem_seg = PixelData(data=torch.tensor([[labels]]))
        batch = dict(inputs=[torch.zeros(3, 1, 2)], data_samples=[sample])
        dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b', 'c')))
        runner = SimpleNamespace(
            train_dataloader=SimpleNamespace(dataset=dataset), model=model
        )
        ours, theirs = nullcontext(), nullcontext()
        if fails:
            ours = pytest.raises(ConfigError, match='^a.png has pixels that ')
            theirs = pytest.raises(IndexError)
        with ours:
            LabelCheck().before_train_iter(runner, 0, batch)
        padded = model.data_preprocessor(batch, training=True)
        scores = torch.zeros(1, 3, *size)
        with theirs:
            head.loss_by_feat(scores, padded['data_samples'])
