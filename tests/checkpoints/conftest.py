import zipfile

import pytest
from plain_runner import make_runner


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """What mmengine's Runner leaves."""
    work_dir = tmp_path_factory.mktemp('trained')
    make_runner(work_dir).train()
    return work_dir


@pytest.fixture(scope='module')
def mmengine_checkpoints(trained, tmp_path_factory):
    """What a Runner leaves, as either numpy writes it."""
    path = trained / 'epoch_1.pth'
    other = tmp_path_factory.mktemp('numpy') / 'other.pth'
    names = b'numpy._core.multiarray', b'numpy.core.multiarray'
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, 'w') as new:
        for record in old.infolist():
            content = old.read(record)
            if record.filename.endswith('data.pkl'):
                ours, theirs = names if names[0] in content else names[::-1]
                content = content.replace(ours, theirs)
            new.writestr(record, content)
    return path, other
