"""What stops a run, and what is on disk then."""

import os
import re
import resource
import signal
import subprocess
from unittest.mock import Mock

import pytest
import torch
from mmengine.hooks import Hook
from toy import At, ToyDataset, toy_runner

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)
from mmbiformer.reliable.hooks import SafeLoggerHook
from mmbiformer.utils.errors import NonFiniteError, TrainingInterrupted


def names(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def load(path):
    return torch.load(path, weights_only=True)


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
