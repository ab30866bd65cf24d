"""How large COCO and ADE20K are, to tell a part from the whole."""

from .report import SplitReport

# Images and objects of the whole data sets. COCO's: github.com/cocodataset/
# cocoapi/issues/117; images with objects are what detectors train on.
# ADE20K's: github.com/CSAILVision/sceneparsing.
REFERENCE_COUNTS = {
    'instances_train2017.json': (
        'COCO 2017 train',
        {'images': 118287, 'images with objects': 117266, 'objects': 860001},
    ),
    'instances_val2017.json': (
        'COCO 2017 val',
        {'images': 5000, 'objects': 36781},
    ),
    'images/training': ('ADE20K SceneParsing train', {'images': 20210}),
    'images/validation': ('ADE20K SceneParsing val', {'images': 2000}),
}
"""dict[str, tuple]: Name and counts of each, by its annotation file or by the
end of its folder of images."""


def compare_counts(report: SplitReport, key: str) -> None:
    """Remark whether a well-known data set is whole.

    Args:
        report (SplitReport): Report of the data set, with its counts; gets
            the remark.
        key (str): One of :data:`REFERENCE_COUNTS`.
    """
    name, counts = REFERENCE_COUNTS[key]
    fewer = [
        f'{wanted:,} {what}'
        for what, wanted in counts.items()
        if report.counts[what] != wanted
    ]
    report.remarks.append(
        f'the whole {name} has ' + ', '.join(fewer)
        if fewer
        else f'this is the whole {name}'
    )
