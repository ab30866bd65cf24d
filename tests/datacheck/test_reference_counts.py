from small_datasets import NAMES

from mmbiformer.datacheck.reference_counts import compare_counts
from mmbiformer.datacheck.report import SplitReport
from mmbiformer.datacheck.splits import check_split


def test_a_part_of_coco_and_of_ade20k(coco, pairs):
    from mmdet.datasets import CocoDataset

    coco.dataset.ann_file = 'instances_val2017.json'
    names = CocoDataset.METAINFO['classes']
    coco.dataset.metainfo.classes = names
    coco.content['categories'] = [
        dict(id=index, name=name) for index, name in enumerate(names)
    ]
    coco.save()
    (coco.folder / 'a.json').rename(coco.folder / 'instances_val2017.json')
    report = check_split(coco.cfg, 'train', workers=1)
    assert report.remarks == [
        'the complete COCO 2017 val has 5,000 images, 36,781 objects'
    ]
    pairs.dataset.type = 'ADE20KDataset'
    pairs.dataset.metainfo = None
    pairs.dataset.data_prefix = dict(
        img_path='images/training', seg_map_path='labels'
    )
    (pairs.folder / 'images/training').mkdir()
    for name in NAMES:
        (pairs.folder / 'images' / name).rename(
            pairs.folder / 'images/training' / name
        )
    report = check_split(pairs.cfg, 'train', workers=1)
    assert 'the complete ADE20K SceneParsing train has 20,210 images' in (
        report.remarks
    )


def test_a_complete_data_set():
    report = SplitReport('val')
    report.counts.update(images=5000, objects=36781)
    compare_counts(report, 'instances_val2017.json')
    report.counts['objects'] += 1
    compare_counts(report, 'instances_val2017.json')
    assert report.remarks == [
        'this is the complete COCO 2017 val',
        'the complete COCO 2017 val has 36,781 objects',
    ]
