import pytest
from small_datasets import Coco, Pairs


@pytest.fixture
def coco(tmp_path_factory):
    return Coco(tmp_path_factory.mktemp('coco'))


@pytest.fixture
def pairs(tmp_path_factory):
    return Pairs(tmp_path_factory.mktemp('pairs'))
