import os
import subprocess

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from toy import toy_runner

from mmbiformer.reliable.resume import (
    check_work_dir,
    find_checkpoint,
    write_last_checkpoint,
)
from mmbiformer.utils.errors import CheckpointError, OutputError


def save(path, iteration, age, **extra):
    """Write a checkpoint that is so many seconds old."""
    content = dict(
        meta=dict(iter=iteration), state_dict={}, optimizer={}, **extra
    )
    torch.save(content, path)
    os.utime(path, (10**9 - age, 10**9 - age))
    return path


class TestFindCheckpoint:
    @pytest.fixture
    def three(self, tmp_path):
        """Three checkpoints; the last is named."""
        paths = [
            save(tmp_path / f'epoch_{i}.pth', 4 * i, age=10 - i)
            for i in (1, 2, 3)
        ]
        write_last_checkpoint(str(tmp_path), str(paths[-1]))
        return paths

    def test_the_named_one(self, three, tmp_path):
        assert find_checkpoint(tmp_path) == str(three[2])

    def test_none(self, tmp_path):
        assert find_checkpoint(tmp_path) is None

    @pytest.mark.parametrize('size', [0, 100, 900])
    def test_one_that_is_cut_off_is_skipped(
        self, three, tmp_path, size, monkeypatch
    ):
        os.truncate(three[2], size)
        logged = []
        monkeypatch.setattr(
            'mmbiformer.reliable.resume.print_log',
            lambda text, *_: logged.append(text),
        )
        assert find_checkpoint(tmp_path) == str(three[1])
        (text,) = logged
        assert str(three[2]) in text
        assert f'({size} bytes)' in text
        assert 'skipped' in text

    def test_none_that_can_be_read(self, three, tmp_path):
        for path in three:
            os.truncate(path, 100)
        with pytest.raises(CheckpointError) as error:
            find_checkpoint(tmp_path)
        start, names = str(error.value).split('. To start')[0].split(': ')
        assert start == (
            f'none of the checkpoints in work_dir={str(tmp_path)!r} can be '
            'resumed, and these cannot be read'
        )
        assert sorted(names.split(', ')) == [path.name for path in three]

    @pytest.mark.parametrize('content', ['', '\0\0', 'nowhere.pth'])
    def test_a_name_that_is_cut_off(self, three, tmp_path, content):
        (tmp_path / 'last_checkpoint').write_text(content)
        assert find_checkpoint(tmp_path) == str(three[2])

    def test_a_folder_that_was_moved(self, three, tmp_path):
        (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
        assert find_checkpoint(tmp_path) == str(three[2])

    def test_killed_before_the_name_was_written(self, three, tmp_path):
        newer = save(tmp_path / 'epoch_4.pth', 16, age=0)
        assert find_checkpoint(tmp_path) == str(newer)

    def test_leftovers_of_a_longer_run(self, three, tmp_path):
        """The run was taken up again from an earlier epoch."""
        save(tmp_path / 'epoch_9.pth', 36, age=100)
        assert find_checkpoint(tmp_path) == str(three[2])

    def test_a_copied_folder(self, three, tmp_path):
        """Files are as old as the copying made them."""
        save(three[0], 4, age=0)
        assert find_checkpoint(tmp_path) == str(three[2])

    def test_what_a_killed_run_was_writing(self, three, tmp_path):
        """The next checkpoint that is saved deletes it."""
        leftover = save(tmp_path / '.1.epoch_4.pth', 16, age=0)
        other = tmp_path / '.hidden.pth'
        other.touch()
        assert find_checkpoint(tmp_path) == str(three[2])
        toy_runner(tmp_path, train_cfg=dict(max_epochs=1)).train()
        assert not leftover.exists()
        assert other.exists()

    def test_best_and_published_ones_cannot_be_resumed(self, tmp_path):
        torch.save(dict(state_dict={}), tmp_path / 'epoch_3-0123abcd.pth')
        torch.save(dict(meta=dict(iter=9)), tmp_path / 'best_epoch_3.pth')
        assert find_checkpoint(tmp_path) is None


class TestWorkDir:
    def check(self, work_dir, training=True, **options):
        cfg = Config(dict(work_dir=str(work_dir), **options))
        check_work_dir(cfg, training)

    def test_below_a_file(self, tmp_path):
        (tmp_path / 'file').touch()
        with pytest.raises(OutputError, match='work_dir=.*file is no'):
            self.check(tmp_path / 'file/run')

    def test_read_only(self, tmp_path):
        """Even root cannot write there."""
        mount = ['mount', '-t', 'tmpfs', '-o', 'ro', 'none', tmp_path]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip('mounting is not allowed')
        try:
            with pytest.raises(OutputError, match='work_dir=.*read-only'):
                self.check(tmp_path / 'run')
        finally:
            subprocess.run(['umount', tmp_path], check=True)

    def test_another_run(self, tmp_path):
        self.check(tmp_path)
        last = save(tmp_path / 'epoch_3.pth', 12, age=0)
        write_last_checkpoint(str(tmp_path), str(last))
        other = save(tmp_path.parent / 'other.pth', 12, age=0)
        for load_from in (None, str(other)):
            message = f'^work_dir={str(tmp_path)!r} holds.*epoch_3.pth'
            with pytest.raises(OutputError, match=message):
                self.check(tmp_path, load_from=load_from)
        with pytest.raises(OutputError, match='--resume'):
            self.check(tmp_path, resume=True, load_from=str(other))
        self.check(tmp_path, training=False)
        self.check(tmp_path, resume=True)
        self.check(tmp_path, resume=True, load_from=str(last))


class TestSchedule:
    """A longer schedule in the config of a run that is resumed."""

    def options(self, epochs):
        return dict(
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=3),
                dict(type='CosineAnnealingLR', T_max=epochs, begin=0),
            ],
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
        )

    def rates(self, work_dir, epochs, **options):
        """The learning rate of each iteration."""
        runner = toy_runner(work_dir, **self.options(epochs), **options)
        seen = []

        class Watch(Hook):
            def before_train_iter(self, runner, *_, **__):
                seen.append(runner.optim_wrapper.get_lr()['lr'][0])

        runner.register_hook(Watch())
        runner.train()
        return seen

    @pytest.fixture
    def work_dir(self, tmp_path):
        self.rates(tmp_path / 'run', 2)
        return tmp_path / 'run'

    def test_that_of_the_checkpoint_is_followed_and_both_are_named(
        self, work_dir
    ):
        rates = self.rates(work_dir, 4, resume=True)
        # It ends after its second epoch, at half of the rate.
        assert rates == pytest.approx([0.05] * 8)
        log = max(work_dir.glob('*/*.log')).read_text()
        assert 'CosineAnnealingLR.T_max=2 (4 in the config)' in log
        assert 'extend_schedule=True' in log

    def test_that_of_the_config_is_followed_on_request(
        self, tmp_path, work_dir
    ):
        whole = self.rates(tmp_path / 'whole', 4)
        rates = self.rates(work_dir, 4, resume=True, extend_schedule=True)
        assert rates == pytest.approx(whole[8:])
        assert min(rates) > 0

    def test_the_same_one_is_not_mentioned(self, tmp_path):
        for resume in (False, True):
            self.rates(tmp_path, 2, resume=resume)
        logs = [path.read_text() for path in tmp_path.glob('*/*.log')]
        assert 'follows the schedule' not in ''.join(logs)
