import json
from types import SimpleNamespace

import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.config import Config

from mmbiformer.datacheck.checks import (
    check_annotations,
    check_classes,
    check_data,
    check_labels,
)
from mmbiformer.utils.errors import ConfigError, DataError, MissingFileError


def make_config(**dataset):
    loader = dict(dataset=dict(type='CocoDataset', **dataset))
    return Config(
        dict(default_scope='mmdet', train_dataloader=loader, other=None)
    )


def test_missing_data_says_where_and_how(tmp_path):
    cfg = make_config(
        data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img='b/')
    )
    cfg.data_preparation = 'call the cook'
    with pytest.raises(MissingFileError) as error:
        check_data(cfg, ['train_dataloader'])
    assert str(error.value).splitlines() == [
        'the data set is not there. Looked for',
        f'  train_dataloader.dataset.ann_file: {tmp_path}/a.json',
        f'  train_dataloader.dataset.data_prefix.img: {tmp_path}/b',
        'To prepare it: call the cook',
    ]


def test_wrapped_data_sets_are_looked_into(tmp_path):
    inner = dict(data_root=str(tmp_path), ann_file='a.json')
    cfg = make_config(datasets=[dict(dataset=inner)])
    with pytest.raises(MissingFileError, match='dataset_prepare.html'):
        check_data(cfg, ['train_dataloader'])
    (tmp_path / 'a.json').touch()
    check_data(cfg, ['train_dataloader', 'other'])


def test_data_elsewhere_is_not_looked_for():
    cfg = make_config(data_root='s3://bucket/', ann_file='s3://bucket/a.json')
    check_data(cfg, ['train_dataloader'])
    # The path alone does not say that it is in a store.
    cfg = make_config(ann_file='a.json', backend_args=dict(backend='petrel'))
    check_data(cfg, ['train_dataloader'])


def test_a_config_without_the_dataloader(tmp_path):
    path = tmp_path / 'config.py'
    path.touch()
    message = f"{path} has no 'test_dataloader'"
    with pytest.raises(ConfigError, match=message):
        check_data(Config.fromfile(path), ['test_dataloader'])


def test_classes_of_heads_and_data_are_compared():
    cfg = make_config(metainfo=dict(classes=('a', 'b')))
    head = dict(num_classes=2)
    cfg.model = dict(
        roi_head=dict(bbox_head=[head, dict(num_classes=3)], mask_head=head)
    )
    names = ['train_dataloader', 'other']
    with pytest.raises(ConfigError) as error:
        check_classes(cfg, names)
    assert str(error.value).startswith(
        'model.roi_head.bbox_head.1.num_classes=3, but train_dataloader.'
        'dataset.metainfo.classes has 2 names'
    )
    cfg.model.roi_head.bbox_head[1].num_classes = 2
    check_classes(cfg, names)
    # Without names of its own, it has those of its type.
    cfg.train_dataloader.dataset.metainfo = None
    with pytest.raises(ConfigError, match='CocoDataset has 80 names'):
        check_classes(cfg, names)
    cfg.train_dataloader.dataset.metainfo = dict(classes='digit')
    with pytest.raises(ConfigError, match=r"\('digit',\)"):
        check_classes(cfg, names)


def test_classes_in_a_file(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('a\nb\n')
    cfg = make_config(metainfo=dict(classes=str(path)))
    cfg.model = dict(bbox_head=dict(num_classes=2))
    check_classes(cfg, ['train_dataloader'])
    cfg.model.bbox_head.num_classes = 3
    with pytest.raises(ConfigError, match='metainfo.classes has 2 names'):
        check_classes(cfg, ['train_dataloader'])
    path.unlink()
    with pytest.raises(ConfigError, match='an existing file .*classes.txt'):
        check_classes(cfg, ['train_dataloader'])


def test_names_that_a_type_of_mmseg_does_not_have():
    cfg = make_config(metainfo=dict(classes=('road', 'sidewlak')))
    cfg.default_scope = 'mmseg'
    cfg.train_dataloader.dataset.type = 'CityscapesDataset'
    cfg.model = dict(decode_head=dict(num_classes=2))
    with pytest.raises(ConfigError) as error:
        check_classes(cfg, ['train_dataloader'])
    assert str(error.value).startswith(
        'train_dataloader.dataset.metainfo.classes has the names '
        "'sidewlak' (did you mean 'sidewalk'?), which are no classes of "
        'CityscapesDataset'
    )
    cfg.train_dataloader.dataset.metainfo.classes = ('sidewalk', 'road')
    check_classes(cfg, ['train_dataloader'])


PANOPTIC = dict(num_things_classes=2, num_stuff_classes=1)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        # mmdet's Panoptic FPN: boxes and masks are of things only.
        (
            dict(
                semantic_head=PANOPTIC,
                roi_head=dict(bbox_head=dict(num_classes=2)),
            ),
            None,
        ),
        (
            dict(
                semantic_head=PANOPTIC,
                roi_head=dict(bbox_head=dict(num_classes=1)),
            ),
            r'num_classes=1, but .* 3 names; .* as it has things \(2\)',
        ),
        (dict(panoptic_head=PANOPTIC), None),
        (
            dict(panoptic_head=dict(PANOPTIC, num_stuff_classes=5)),
            'model.panoptic_head.num_things_classes=2 and num_stuff_classes=5',
        ),
        (
            dict(
                panoptic_head=dict(num_things_classes=1, num_stuff_classes=2)
            ),
            '3 names, 2 of things',
        ),
        # mmseg's STDC: boundaries; and one channel for two classes.
        (dict(auxiliary_head=[dict(type='STDCHead', num_classes=9)]), None),
        # Grounding DINO, SAN: the classes are texts.
        (
            dict(
                language_model=dict(type='B'), bbox_head=dict(num_classes=256)
            ),
            None,
        ),
    ],
)
def test_heads_that_count_otherwise(model, message):
    cfg = make_config(
        metainfo=dict(
            classes=('a', 'b', 'c'),
            thing_classes=('a', 'b'),
            stuff_classes=('c',),
        )
    )
    cfg.model = model
    if message is None:
        check_classes(cfg, ['train_dataloader'])
        return
    with pytest.raises(ConfigError, match=message):
        check_classes(cfg, ['train_dataloader'])


@pytest.mark.parametrize('count', [1, 2])
def test_one_channel_for_two_classes(count):
    cfg = make_config(metainfo=dict(classes=('rest', 'lung')))
    cfg.model = dict(decode_head=dict(num_classes=count, out_channels=1))
    check_classes(cfg, ['train_dataloader'])
    cfg.train_dataloader.dataset.metainfo.classes = ('rest', 'lung', 'heart')
    with pytest.raises(ConfigError, match='has 3 names'):
        check_classes(cfg, ['train_dataloader'])


def test_a_class_without_a_category_is_refused():
    data = SimpleNamespace(metainfo=dict(classes=('a', 'b')), cat_ids=[7])
    message = '^this data set: only 1 of the 2 names in metainfo.classes'
    with pytest.raises(DataError, match=message):
        check_annotations(data, 'this data set')
    data.cat_ids = [7, 8]
    check_annotations(data, 'this data set')


def test_classes_in_another_order_are_refused_with_both(tmp_path):
    path = tmp_path / 'a.json'
    names = [dict(id=8, name='b'), dict(id=7, name='a')]
    path.write_text(json.dumps(dict(categories=names)))
    data = SimpleNamespace(
        metainfo=dict(classes=('a', 'b')), cat_ids=[8, 7], ann_file=str(path)
    )
    with pytest.raises(DataError) as error:
        check_annotations(data, 'this data set')
    message = str(error.value)
    assert message.startswith('this data set: metainfo.classes must name')
    assert message.endswith("which is ('b', 'a')")
    data.metainfo['classes'] = ('b', 'a')
    check_annotations(data, 'this data set')


def categories(tmp_path, *names):
    path = tmp_path / 'a.json'
    listed = [dict(id=i, name=name) for i, name in enumerate(names)]
    path.write_text(json.dumps(dict(categories=listed)))
    return SimpleNamespace(
        metainfo=dict(classes=names),
        cat_ids=list(range(len(names))),
        ann_file=str(path),
    )


LVIS = tuple(f'thing_{i}' for i in range(1203))


def test_a_corrected_name_of_a_data_set_that_does_not_match_by_name(tmp_path):
    data = categories(tmp_path, *LVIS)
    data.metainfo['classes'] = (*LVIS[:7], 'corrected', *LVIS[8:])
    check_annotations(data, 'LVIS')
    # Yet nothing else may be what the labels mean.
    data.metainfo['classes'] = (*LVIS[:7], LVIS[8], LVIS[7], *LVIS[9:])
    with pytest.raises(DataError) as error:
        check_annotations(data, 'LVIS')
    message = str(error.value)
    assert "'thing_8' is class 7 and category 8" in message
    assert len(message) < 300
    data.metainfo['classes'] = LVIS[:2]
    with pytest.raises(DataError, match='^LVIS: 1203 categories .* 2 names'):
        check_annotations(data, 'LVIS')


def test_a_name_that_is_no_category_is_named_among_many(tmp_path):
    data = categories(tmp_path, *LVIS)
    del data.cat_ids[7]
    data.metainfo['classes'] = (*LVIS[:7], 'thing_seven', *LVIS[8:])
    with pytest.raises(DataError) as error:
        check_annotations(data, 'COCO')
    message = str(error.value)
    assert '1202 of the 1203 names' in message
    assert "not 'thing_seven' (did you mean 'thing_7'" in message
    assert len(message) < 300


def test_a_category_under_two_ids(tmp_path):
    data = categories(tmp_path, 'a', 'b', 'a')
    data.metainfo['classes'] = ('a', 'b')
    with pytest.raises(DataError, match="have the name 'a'"):
        check_annotations(data, 'COCO')


class WithMasks(list):
    """A data set of the instances of each image, for a Mask R-CNN."""

    pipeline = SimpleNamespace(transforms=[LoadAnnotations(with_mask=True)])

    def get_data_info(self, index):
        return dict(img_path=f'{index}.jpg', instances=self[index])


def test_an_object_without_a_mask_is_refused():
    good = [dict(mask=[]), dict(ignore_flag=1)]
    check_annotations(WithMasks([good] * 3), 'this data set')
    bad = WithMasks([good, good, [*good, dict(ignore_flag=0)]])
    message = '^this data set: an instance of 2.jpg has no mask'
    with pytest.raises(DataError, match=message):
        check_annotations(bad, 'this data set')
    check_annotations(bad, 'this data set', images=2)


class FromFiles(LoadAnnotations):
    """Takes the masks from elsewhere."""

    def _load_masks(self, results):
        pass


def test_masks_that_are_not_in_the_annotations():
    data = WithMasks([[dict(ignore_flag=0)]])
    data.pipeline = SimpleNamespace(transforms=[FromFiles(with_mask=True)])
    check_annotations(data, 'this data set')


@pytest.mark.parametrize(
    ('classes', 'ignore_index', 'outside'),
    [
        (3, 255, []),
        # Losses of mmseg ignore 255 whatever else is ignored.
        (3, 2, []),
        (2, 2, []),
        (2, 255, [2]),
        (1, 255, [1, 2]),
    ],
)
def test_label_values(classes, ignore_index, outside):
    labels = torch.tensor([[0, 2], [255, 1]])
    if not outside:
        check_labels(labels, classes, [ignore_index], 'a.png')
        return
    with pytest.raises(DataError) as error:
        check_labels(labels, classes, [ignore_index], 'a.png')
    assert str(error.value).startswith(
        f'a.png holds the label values {outside}, and the {classes} classes '
        f'are 0 to {classes - 1} ({ignore_index} is ignored)'
    )


def test_negative_labels():
    with pytest.raises(DataError, match=r'values \[-1\]'):
        check_labels(torch.tensor([-1, 0]), 3, [], 'a.png')
