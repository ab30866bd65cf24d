from argparse import Namespace

import numpy as np
import pytest
import torch

from mmbiformer.checkpoints import io
from mmbiformer.checkpoints.allowed_types import MMENGINE_TYPES, STRICT_TYPES
from mmbiformer.utils.errors import CheckpointError

DTYPES = [type(np.dtype(code)) for code in '?bhilBHILefd']


@pytest.mark.parametrize(
    'index', [i for i, t in enumerate(STRICT_TYPES) if t not in DTYPES]
)
def test_each_type_is_needed(
    mmengine_checkpoints, index, monkeypatch, tmp_path
):
    kept = STRICT_TYPES[:index] + STRICT_TYPES[index + 1 :]
    monkeypatch.setattr(io, 'STRICT_TYPES', kept)
    args = tmp_path / 'args.pth'
    torch.save(dict(args=Namespace()), args)
    with pytest.raises(CheckpointError, match='was not loaded'):
        for path in (*mmengine_checkpoints, args):
            io.load_checkpoint(str(path))


@pytest.mark.parametrize('kind', DTYPES)
def test_arrays_and_scalars_of_each_type_load(kind, tmp_path):
    array = np.ones(3, kind())
    torch.save([array, array[0]], tmp_path / 'a.pth')
    loaded, scalar = io.load_checkpoint(str(tmp_path / 'a.pth'))
    assert loaded.dtype == scalar.dtype == array.dtype
    assert (loaded == 1).all()
    # By torch alone, too.
    torch.load(tmp_path / 'a.pth', weights_only=True)


def test_torch_is_given_no_getattr():
    names = [t[1] for t in MMENGINE_TYPES if isinstance(t, tuple)]
    assert all(name.startswith('numpy.') for name in names)
    assert getattr not in MMENGINE_TYPES
