"""How records are read."""

import gc

import pytest

from mmbiformer.datacheck.records import collection_paused


def test_garbage_collection_is_as_before():
    with collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), collection_paused():
        raise KeyError
    assert gc.isenabled()
