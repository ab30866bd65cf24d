"""A small data set in PASCAL VOC's format that a test can damage."""

from small_datasets import HEIGHT, WIDTH, read, write_image


class Voc:
    """Four images with a cat and a dog each, read by mmdet's XMLDataset."""

    def __init__(self, folder):
        self.folder = folder
        for name in ('JPEGImages', 'Annotations'):
            (folder / name).mkdir()
        self.boxes = [
            [('cat', 11, 11, 31, 31), ('dog', 5, 5, 30, 30)] for _ in range(4)
        ]
        for index in range(4):
            write_image(folder / f'JPEGImages/{index}.jpg')
        (folder / 'train.txt').write_text('0\n1\n2\n3\n')
        self.cfg = read('detection/retinanet_biformer_digits.py')
        self.cfg.model.bbox_head.num_classes = 2
        loader = self.cfg.train_dataloader
        pipeline = loader.dataset.pipeline
        for step in pipeline:
            if step['type'] == 'LoadAnnotations':
                step.update(with_mask=False)
        del loader['dataset']
        loader.update(
            num_workers=0,
            persistent_workers=False,
            batch_size=1,
            dataset=dict(
                type='XMLDataset',
                data_root=str(folder),
                ann_file='train.txt',
                data_prefix=dict(sub_data_root=''),
                metainfo=dict(classes=('cat', 'dog')),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=pipeline,
            ),
        )
        self.dataset = loader.dataset

    def save(self):
        for index, boxes in enumerate(self.boxes):
            objects = ''.join(
                f'<object><name>{name}</name><difficult>{bool(rest):d}'
                f'</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>'
                f'<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>'
                for name, left, top, right, bottom, *rest in boxes
            )
            (self.folder / f'Annotations/{index}.xml').write_text(
                f'<annotation><size><width>{WIDTH}</width>'
                f'<height>{HEIGHT}</height></size>{objects}</annotation>'
            )
