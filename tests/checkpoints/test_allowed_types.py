from argparse import Namespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

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


def test_other_lists_leave_that_of_torch_as_it_is(tmp_path):
    """mmengine's fork has one of its own while it loads a file."""
    torch.save([np.ones(3), HistoryBuffer([1.0], [1])], tmp_path / 'a.pth')
    with torch.serialization.safe_globals(
        [np.ndarray, np.dtype, type(np.dtype('d')), HistoryBuffer, getattr]
    ):
        torch.load(tmp_path / 'a.pth', weights_only=True)
    types = [np.ndarray, np.dtype, type(np.dtype('d')), HistoryBuffer]
    names = torch.serialization.get_unsafe_globals_in_checkpoint(
        tmp_path / 'a.pth'
    )
    assert not {f'{t.__module__}.{t.__qualname__}' for t in types} & set(names)


def test_torch_is_given_no_getattr():
    buffer = 'mmengine.logging.history_buffer.HistoryBuffer'
    for kind, name in MMENGINE_TYPES:
        assert name.startswith('numpy.') or name == buffer
        assert kind is not getattr
