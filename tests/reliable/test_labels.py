"""Label maps that would make a loss fail."""

from contextlib import nullcontext
from types import SimpleNamespace

import mmseg
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)
from mmbiformer.reliable.labels import LabelCheck
from mmbiformer.utils.errors import ConfigError, DataError


class TestLabelCheck:
    def check(self, labels, many=False, **metainfo):
        """Check a label map of three classes as a batch of testing."""
        sample = SegDataSample(metainfo=dict(seg_map_path='a.png'))
        sample.gt_sem_seg = PixelData(data=torch.tensor([[labels]]))
        dataset = SimpleNamespace(metainfo=metainfo, ignore_index=7)
        runner = SimpleNamespace(
            test_dataloader=SimpleNamespace(dataset=dataset),
            model=torch.nn.Module(),
        )
        # As of a head.
        runner.model.ignore_index = 6
        batch = dict(data_samples=[[sample] if many else sample])
        LabelCheck().before_test_iter(runner, 0, batch)

    @pytest.mark.parametrize('many', [False, True])
    def test_values_that_are_no_class(self, many):
        classes = ('a', 'b', 'c')
        self.check([0, 2, 6, 7, 255], many, classes=classes)
        with pytest.raises(DataError, match=r'^a\.png holds .*\[3\]'):
            self.check([0, 3], many, classes=classes)

    def test_classes_that_are_not_known(self):
        self.check([0, 3])

    @pytest.mark.parametrize(
        ('kind', 'labels', 'size', 'fails'),
        [
            ('mmseg.CrossEntropyLoss', [0, 2], (1, 2), False),
            ('mmseg.CrossEntropyLoss', [0, 255], (1, 2), True),
            # By padding.
            ('mmseg.CrossEntropyLoss', [0, 2], (1, 3), True),
            ('WeightedCrossEntropyLoss', [0, 255], (1, 3), False),
        ],
    )
    def test_class_weights_of_ignored_pixels(self, kind, labels, size, fails):
        """The check agrees with what the head does."""
        head = FCNHead(
            in_channels=4,
            channels=4,
            num_convs=0,
            concat_input=False,
            num_classes=3,
            loss_decode=dict(type=kind, class_weight=[0.1, 1, 1]),
        )
        model = torch.nn.Module()
        model.data_preprocessor = SegDataPreProcessor(size=size)
        model.head = head
        sample = SegDataSample(metainfo=dict(seg_map_path='a.png'))
        sample.gt_sem_seg = PixelData(data=torch.tensor([[labels]]))
        batch = dict(inputs=[torch.zeros(3, 1, 2)], data_samples=[sample])
        dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b', 'c')))
        runner = SimpleNamespace(
            train_dataloader=SimpleNamespace(dataset=dataset), model=model
        )
        padded = model.data_preprocessor(batch, training=True)
        scores = torch.zeros(1, 3, *size)
        said = nullcontext()
        try:
            head.loss_by_feat(scores, padded['data_samples'])
        except IndexError:
            said = pytest.raises(ConfigError, match='^a.png has pixels that ')
            assert fails
        else:
            # mmseg's fork has it mended.
            assert not fails or mmseg.__version__ != '1.2.2'
        with said:
            LabelCheck().before_train_iter(runner, 0, batch)
