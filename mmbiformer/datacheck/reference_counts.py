"""Sizes of COCO and ADE20K, to recognize incomplete data sets."""

from .report import SplitReport

# COCO's counts: github.com/cocodataset/
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
"""dict[str, tuple]: Name and counts of each data set, by its annotation file
or the end of its image folder."""


def compare_counts(report: SplitReport, key: str) -> None:
    """Add a remark whether a well-known data set is complete.

    Args:
        report (SplitReport): Report with the counts of the data set, to which
            the remark is added.
        key (str): One of :data:`REFERENCE_COUNTS`.
    """
    name, counts = REFERENCE_COUNTS[key]
    fewer = [
        f'{wanted:,} {what}'
        for what, wanted in counts.items()
        if report.counts[what] != wanted
    ]
    report.remarks.append(
        f'the complete {name} has ' + ', '.join(fewer)
        if fewer
        else f'this is the complete {name}'
    )
