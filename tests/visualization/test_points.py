import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmbiformer.visualization import default_points, object_points


def make_detections(**extra):
    return BaseDataElement(
        metainfo=dict(ori_shape=(50, 100)),
        pred_instances=InstanceData(
            bboxes=torch.tensor(
                [
                    [0.0, 0, 20, 10],
                    [50, 20, 90, 40],
                    [52, 20, 90, 40],
                    [90, 40, 120, 60],
                    [5, 30, 15, 40],
                ]
            ),
            scores=torch.tensor([0.5, 0.9, 0.8, 0.4, 0.2]),
            **extra,
        ),
    )


def test_boxes_by_score_without_repeats_or_weak_ones():
    points = object_points(make_detections())
    # The third box is the second again, the last is too weak, and the fourth
    # reaches over the image's edge.
    assert points == [(70, 30), (10, 5), (99, 49)]
    assert object_points(make_detections(), limit=1) == [(70, 30)]


def test_points_lie_on_the_masks():
    masks = torch.zeros(5, 50, 100, dtype=torch.bool)
    masks[1, 20:25, 50:90] = True
    masks[1, 20:40, 80:90] = True
    masks[0, 4:7, 1:4] = True
    points = object_points(make_detections(masks=masks))
    (x, y), other = points[:2]
    assert masks[1, int(y), int(x)] and 82 <= x <= 87
    assert other == (2, 5)


def test_segments_by_area():
    labels = torch.zeros(1, 50, 100, dtype=torch.int64)
    labels[0, :10, :10] = 3
    labels[0, 20:40, 20:60] = 7
    sample = BaseDataElement(pred_sem_seg=PixelData(data=labels))
    points = object_points(sample, limit=3)
    assert [labels[0, int(y), int(x)] for x, y in points] == [0, 7, 3]
    sample = BaseDataElement(pred_panoptic_seg=PixelData(sem_seg=labels))
    assert object_points(sample) == points


def test_nothing_found():
    assert object_points(BaseDataElement()) == []


@pytest.mark.parametrize('size', [(1, 1), (37, 61)])
def test_default_points_lie_inside(size):
    points = np.array(default_points(size))
    assert (points >= 0).all() and (points < size[::-1]).all()
