import os
import subprocess

import pytest
import torch
from mmengine.config import Config
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
