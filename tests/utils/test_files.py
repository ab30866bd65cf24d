"""Files are checked before any work, and written whole or not at all."""

import os

import pytest

from mmbiformer.utils.errors import ConfigError, MissingFileError, OutputError
from mmbiformer.utils.files import (
    atomic_write,
    check_checkpoint,
    check_output,
    check_writable,
    is_local,
    remove_leftovers,
)


@pytest.mark.parametrize(
    ('path', 'local'),
    [
        ('a.pth', True),
        ('/a/b:c', False),
        ('C:/a.pth', True),
        ('https://zoo/a.pth', False),
        ('s3://bucket/a.pth', False),
        ('', False),
        (None, False),
    ],
)
def test_is_local(path, local):
    assert is_local(path) == local


class TestAtomicWrite:
    def test_the_file_appears_when_it_is_complete(self, tmp_path):
        path = tmp_path / 'a.json'
        path.write_text('before')
        with atomic_write(path) as scratch:
            scratch.write_text('half')
            assert path.read_text() == 'before'
            # Hidden, with the same suffix, in the same folder.
            assert scratch.parent == tmp_path
            assert scratch.name.startswith('.')
            assert scratch.suffix == '.json'
            scratch.write_text('whole')
        assert path.read_text() == 'whole'
        assert list(tmp_path.iterdir()) == [path]

    def test_an_error_leaves_what_was_there(self, tmp_path):
        path = tmp_path / 'a.json'
        path.write_text('before')
        with pytest.raises(ZeroDivisionError), atomic_write(path) as scratch:
            scratch.write_text('half')
            raise ZeroDivisionError
        assert path.read_text() == 'before'
        assert list(tmp_path.iterdir()) == [path]


def test_only_leftovers_of_other_processes_are_deleted(tmp_path):
    own, other = os.getpid(), os.getpid() + 1
    kept = [
        'a.pth', f'.{own}.a.pth', f'.{other}.a.json', '.hidden.pth',
        '.7z.a.pth', f'{other}.a.pth',
    ]  # fmt: skip
    for name in (*kept, f'.{other}.a.pth'):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, '.pth')
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


class TestCheckOutput:
    """Each error names the argument and its value."""

    def refused(self, kind, path, message, **options):
        with pytest.raises(kind) as error:
            check_output(path, '--out', **options)
        assert message.format(f'--out={str(path)!r}') == str(error.value)

    def test_suffixes(self, tmp_path):
        suffixes = ('.png', '.pdf')
        for name in ('a.png', 'a.PDF'):
            check_output(tmp_path / name, '--out', suffixes=suffixes)
        self.refused(
            ConfigError, tmp_path / 'a.bmp',
            '--out must end in .png or .pdf, got {}', suffixes=suffixes,
        )  # fmt: skip

    def test_an_existing_file(self, tmp_path):
        path = tmp_path / 'a.png'
        path.touch()
        check_output(path, '--out', force=True)
        # A tool without the flag does not recommend it.
        message = '{} exists already; name another file'
        self.refused(OutputError, path, message)
        hint = ', or overwrite it by --force'
        self.refused(OutputError, path, message + hint, force=False)

    def test_folders(self, tmp_path):
        message = '{} is a folder; name a file'
        self.refused(OutputError, tmp_path, message, force=True)
        message = f"{{}}: '{tmp_path}/nowhere' is not a folder"
        self.refused(OutputError, tmp_path / 'nowhere/a.png', message)


def test_folders_that_cannot_be_written_to(tmp_path, monkeypatch):
    check_writable(tmp_path / 'new/er', '--work-dir')
    (tmp_path / 'file').touch()
    folder = tmp_path / 'file/run'
    with pytest.raises(OutputError) as error:
        check_writable(folder, '--work-dir')
    assert str(error.value) == (
        f"--work-dir='{folder}' cannot be created: {tmp_path}/file is not a "
        'folder'
    )
    # To root nothing is read-only but a file system.
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(OutputError) as error:
        check_writable(tmp_path / 'new', '--work-dir')
    assert str(error.value) == (
        f"--work-dir='{tmp_path}/new' cannot be written to: {tmp_path} is "
        'read-only'
    )


def test_checkpoints_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.pth').touch()
    (tmp_path / 'folder').mkdir()
    for path in ('a.pth', 'https://zoo/a.pth', 'torchvision://resnet50'):
        check_checkpoint(path)
    for path, kind in (
        ('b.pth', 'not a file'),
        ('folder', 'a folder, not a file'),
    ):
        with pytest.raises(MissingFileError) as error:
            check_checkpoint(path, '--resume')
        assert str(error.value) == (
            f'--resume={path!r} is {kind} (looked for {tmp_path / path})'
        )
