"""What is said where a data set cannot be read, or has no image."""

import copy

import pytest
from mmengine.registry import DefaultScope
from small_datasets import train

from mmbiformer.datacheck.loading import check_not_empty, loading_errors
from mmbiformer.utils.errors import ConfigError, DataError

DATASET = dict(type='BaseSegDataset', data_root='/data', ann_file='a.txt')


def fail(error, **dataloader):
    """Raise an error where a dataloader is built; return what it becomes."""
    with (
        DefaultScope.overwrite_default_scope('mmseg'),
        pytest.raises(Exception) as raised,
        loading_errors(dataloader),
    ):
        raise error
    return raised.value


def test_a_file_that_cannot_be_read_is_named_with_its_settings():
    error = fail(FileNotFoundError('a.txt'), dataset=DATASET)
    assert type(error) is DataError
    assert str(error) == (
        'a file of this data set cannot be read (a.txt): '
        "{'data_root': '/data', 'ann_file': 'a.txt'}"
    )


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(persistent_workers=True),
            'a dataloader with persistent_workers=True needs num_workers of '
            'at least 1, got num_workers=0',
        ),
        (
            dict(num_worker=2),
            "a dataloader has no argument 'num_worker' (did you mean "
            "'num_workers'",
        ),
    ],
)
def test_settings_that_torch_refuses(settings, message):
    error = fail(ValueError('of torch'), **settings)
    assert type(error) is ConfigError
    assert str(error).startswith(message)


@pytest.mark.parametrize(
    'error', [ValueError('of the code'), ConfigError('said already')]
)
def test_other_errors_pass_unchanged(error):
    assert fail(error, num_workers=2, dataset=[]) is error


def test_an_empty_data_set_is_named_by_its_folder():
    check_not_empty([1], DATASET)
    with pytest.raises(DataError) as error:
        check_not_empty([], dict(type='RepeatDataset', dataset=DATASET))
    message = str(error.value)
    assert message.startswith("the data set in data_root='/data' is empty")
    assert message.endswith("{'data_root': '/data', 'ann_file': 'a.txt'}")


WRAPPERS = {
    'RepeatDataset': lambda bad, good: dict(times=2, dataset=bad),
    'ConcatDataset': lambda bad, good: dict(
        datasets=[good, bad], ignore_keys=['classes']
    ),
    'ClassBalancedDataset': lambda bad, good: dict(
        oversample_thr=0.1, dataset=bad
    ),
    'MultiImageMixDataset': lambda bad, good: dict(pipeline=[], dataset=bad),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_wrong_names_of_classes_inside_of_wrappers(coco, wrapper):
    coco.save()
    good = copy.deepcopy(coco.dataset)
    # Without an image, and with fewer objects.
    for classes in (('x', 'y'), ('cat', 'dgo')):
        bad = dict(good, metainfo=dict(classes=classes))
        settings = WRAPPERS[wrapper](bad, good)
        coco.cfg.train_dataloader.dataset = dict(settings, type=wrapper)
        with pytest.raises(DataError) as error:
            train(coco)
        message = str(error.value)
        # Of this data set, and not of the other.
        assert f"'metainfo': {{'classes': {classes}}}" in message
        assert f'not {classes[-1]!r}' in message.replace("'x', ", '')
