import contextlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.utils.errors import CheckpointError, MissingFileError


def zip_of(path, compression=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


class TestFileKinds:
    """Each names the file and tells what it is."""

    @pytest.mark.parametrize(
        ('content', 'kind'),
        [
            (b'', 'but empty'),
            (bytes(5000), 'something that begins with'),
            (b'\n<!DOCTYPE html>\n<html>404</html>', r'web page \(HTML\)'),
            (b'\xef\xbb\xbf<html>404 Not Found</html>', r'web page \(HTML\)'),
            (b'<?xml version="1.0"?><Error/>', r'begins with b.<\?xml'),
            (b'version https://git-lfs.github.com/spec/v1\noid sha256:0',
             'Git LFS.*git lfs pull'),
            (b'{"message": "Not Found"}', 'begins with b.{"message"'),
            (b'\x1f\x8b\x08', 'gzip'),
            (b'\x93NUMPY\x01', 'begins with .*NUMPY'),
        ],
    )  # fmt: skip
    def test_by_its_beginning(self, tmp_path, content, kind):
        path = tmp_path / 'a.pth'
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf'a\.pth.*{kind}'):
            load_checkpoint(str(path))

    @pytest.mark.parametrize(
        ('names', 'kind'),
        [
            (['a.npy', 'b.npy'], r'holds a\.npy, b\.npy'),
            (['resnet.pth'], r'zip archive that holds resnet\.pth; unpack'),
            ([], 'holds nothing'),
        ],
    )
    def test_other_zips(self, tmp_path, names, kind):
        zip_of(tmp_path / 'a.pth', **dict.fromkeys(names, b'0'))
        with pytest.raises(CheckpointError, match=rf'a\.pth.*{kind}'):
            load_checkpoint(tmp_path / 'a.pth')

    def test_tar(self, tmp_path):
        with tarfile.open(tmp_path / 'a.pth', 'w') as archive:
            archive.addfile(tarfile.TarInfo('storages'), io.BytesIO())
        with pytest.raises(CheckpointError, match='tar archive'):
            load_checkpoint(tmp_path / 'a.pth')

    @pytest.mark.parametrize(
        ('name', 'kind'), [('.', 'a folder'), ('nowhere', 'not a file')]
    )
    def test_what_is_no_file(self, tmp_path, monkeypatch, name, kind):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MissingFileError) as error:
            load_checkpoint(name)
        assert str(error.value) == (
            f'checkpoint={name!r} is {kind} (looked for '
            f'{(tmp_path / name).resolve()})'
        )

    def test_truncated(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(dict(weight=torch.rand(1000)), path)
        whole = path.read_bytes()
        for size in (3, 100, len(whole) // 2, len(whole) - 10):
            path.write_bytes(whole[:size])
            with pytest.raises(CheckpointError, match=r'a\.pth.*truncated'):
                load_checkpoint(str(path))

    def test_truncated_of_old_versions_of_torch(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(
            dict(weight=torch.rand(1000)),
            path,
            _use_new_zipfile_serialization=False,
        )
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(
            CheckpointError,
            match=rf"checkpoint='{path}' \(2000 bytes\) cannot be read",
        ):
            load_checkpoint(path)

    def test_damaged(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(dict(weight=torch.rand(1000)), path)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for place in rng.integers(len(whole), size=200):
            path.write_bytes(
                whole[:place]
                + bytes([whole[place] ^ 255])
                + whole[place + 1 :]
            )
            # A bit of a weight, too, is covered by the archive's checksum.
            with contextlib.suppress(CheckpointError):
                load_checkpoint(str(path))

    def test_no_more_memory_than_the_file_has_bytes(self, tmp_path):
        path = tmp_path / 'bomb.pth'
        torch.save(dict(weight=torch.zeros(1)), path)
        with zipfile.ZipFile(path) as archive:
            records = {r.filename: archive.read(r) for r in archive.infolist()}
        records[next(r for r in records if r.endswith('data/0'))] = bytes(
            2**24
        )
        zip_of(path, zipfile.ZIP_DEFLATED, **records)
        with pytest.raises(
            CheckpointError,
            match=r"bomb\.pth.*its 'bomb/data\.pkl' is compressed",
        ):
            load_checkpoint(str(path))
        zip_of(path, **records)
        # The size in the directory, 2**24, becomes 2**31.
        whole = path.read_bytes().replace(
            (2**24).to_bytes(4, 'little'), (2**31).to_bytes(4, 'little')
        )
        path.write_bytes(whole)
        with pytest.raises(CheckpointError, match=r'claims to hold 21474\d+'):
            load_checkpoint(str(path))
