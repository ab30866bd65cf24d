"""Kinds of data problems, and the report of a data set."""

from collections import Counter
from typing import Dict, List, NamedTuple, Sequence, Tuple

STOPS = 'stops'
WRONG = 'wrong'
SKIPPED = 'skipped'
NOTE = 'note'
EFFECTS = {
    STOPS: 'training or testing stops with an error',
    WRONG: 'training and testing continue with wrong results',
    SKIPPED: 'not used',
    NOTE: 'used',
}
"""dict[str, str]: How each class of problems affects training and testing."""


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        effect (str): One of :data:`EFFECTS`.
        rule (str): How training and testing handle it.
    """

    effect: str
    rule: str


KINDS = {
    # The data set as a whole.
    'missing file or folder': Kind(STOPS, 'an error lists what is missing'),
    'heads do not fit the classes': Kind(STOPS, 'an error names the head'),
    'folders do not fit the classes': Kind(
        STOPS, 'an error names the folders'
    ),
    'folders in a different order': Kind(STOPS, 'an error names the folders'),
    'data set cannot be read': Kind(STOPS, 'an error names the data set'),
    'no image': Kind(STOPS, 'an error names the data set'),
    'no object': Kind(STOPS, 'an error names the data set'),
    'class without a category': Kind(STOPS, 'an error names the classes'),
    'classes in a different order': Kind(
        STOPS, 'an error shows the order of the categories'
    ),
    'duplicate category': Kind(STOPS, 'an error names the classes'),
    'category that is not a class': Kind(SKIPPED, 'its objects are skipped'),
    'class whose objects are all skipped': Kind(
        STOPS, 'an error names the class and the reasons'
    ),
    'most objects are skipped': Kind(STOPS, 'an error names the reasons'),
    'class without objects': Kind(
        NOTE, 'not learned in training, not counted in testing'
    ),
    # Folders of classes, and lists of images with their labels.
    'no class folder': Kind(STOPS, 'an error names the folder'),
    'class folder without images': Kind(STOPS, 'an error names the folder'),
    'class that is not trained on': Kind(STOPS, 'an error names the folders'),
    'class without a folder': Kind(STOPS, 'an error names the folders'),
    'line without a label': Kind(STOPS, 'an error names the line'),
    'class without images': Kind(
        NOTE, 'not learned in training, not counted in testing'
    ),
    'image outside of the class folders': Kind(
        SKIPPED, 'only images in the folder of a class are read'
    ),
    # Annotations.
    'record without a key': Kind(STOPS, 'an error names the key'),
    'record with an invalid value': Kind(
        STOPS, 'an error names the data set or the image'
    ),
    'duplicate image id': Kind(WRONG, 'only the last of the images is used'),
    'duplicate object id': Kind(STOPS, 'an error names the annotations'),
    'object with an unknown image': Kind(SKIPPED, 'the object is skipped'),
    'object with an unknown category': Kind(SKIPPED, 'the object is skipped'),
    'image without objects': Kind(
        SKIPPED,
        'not used in training if filter_cfg.filter_empty_gt is set, else '
        'used as background',
    ),
    'image below filter_cfg.min_size': Kind(SKIPPED, 'not used in training'),
    'box without area': Kind(
        SKIPPED, 'the object, less than a pixel wide or high, is skipped'
    ),
    'box outside the image': Kind(SKIPPED, 'the object is skipped'),
    'box partly outside the image': Kind(NOTE, 'Resize clips the box'),
    'object without a mask': Kind(STOPS, 'an error names the image'),
    'mask without a valid polygon': Kind(
        SKIPPED,
        'the object is treated as a crowd, neither object nor background',
    ),
    'mask that does not fit the image': Kind(
        STOPS, 'an error names the image'
    ),
    'polygons in another form': Kind(
        STOPS, 'an error names the object or the image'
    ),
    'empty mask': Kind(NOTE, 'the box is learned, with an empty mask'),
    'mask larger than its box': Kind(NOTE, 'the mask is clipped to the box'),
    'mask outside its box': Kind(WRONG, 'the mask is learned as background'),
    # What pycocotools evaluates.
    'object without iscrowd': Kind(
        STOPS, 'an error before training, if it is evaluated; write 0'
    ),
    'object that has no mask to evaluate': Kind(
        STOPS, 'an error before training, if masks are evaluated'
    ),
    'object with the id 0': Kind(
        NOTE, 'evaluation counts it as not detected; start the ids at 1'
    ),
    'no object to evaluate': Kind(STOPS, 'an error before training'),
    'no info in the annotations': Kind(
        STOPS, 'an error before training; only pycocotools 2.0.9 and 2.0.10'
    ),
    # Image files.
    'missing image': Kind(STOPS, 'an error names the file'),
    'broken image': Kind(STOPS, 'an error names the file'),
    'image size mismatch': Kind(STOPS, 'an error names the file'),
    'image that the pipeline rejects': Kind(STOPS, 'an error names the file'),
    'image rotated by EXIF': Kind(
        NOTE,
        'the image is rotated; boxes and masks must match the rotated image',
    ),
    'grayscale image': Kind(
        NOTE, 'the gray values are copied to all three channels'
    ),
    'image with transparency': Kind(
        NOTE, 'transparency is dropped, hidden colors become visible'
    ),
    'CMYK image': Kind(NOTE, 'converted to RGB without a color profile'),
    '16-bit image': Kind(
        NOTE, 'values are divided by 256: 12-bit images become nearly black'
    ),
    'image with another suffix': Kind(
        SKIPPED, 'only files of img_suffix, or of extensions, are read'
    ),
    # Label maps.
    'missing label map': Kind(STOPS, 'an error names the file'),
    'broken label map': Kind(STOPS, 'an error names the files'),
    'label map size mismatch': Kind(STOPS, 'an error names the files'),
    'label map not rotated by EXIF': Kind(
        WRONG, 'the image is rotated, its label map is not'
    ),
    'label outside the classes': Kind(STOPS, 'an error names the file'),
    'label map without labels': Kind(NOTE, 'all pixels are ignored'),
    'label map without an image': Kind(SKIPPED, 'not read'),
}
"""dict[str, Kind]: All kinds of problems."""


Finding = Tuple[str, str]
"""A kind of problem, and its location."""


class SplitReport:
    """Content and problems of one data set of a config.

    Args:
        name (str): Name of the data set.

    Attributes:
        tallies (list[ObjectTally]): The objects of each data set to train on.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Dict[str, int] = Counter()
        self.classes: Dict[str, Tuple[float, int]] = {}
        self.unit = 'objects'
        self.problems: Dict[str, List[str]] = {}
        self.remarks: List[str] = []
        self.tallies: list = []

    def add(self, kind: str, where: object) -> None:
        """Add a problem.

        Args:
            kind (str): One of :data:`KINDS`.
            where (object): The file, or another location.
        """
        self.problems.setdefault(kind, []).append(str(where))

    def extend(self, findings: Sequence[Finding]) -> None:
        """Add several problems."""
        for kind, where in findings:
            self.add(kind, where)

    @property
    def fatal(self) -> List[str]:
        """list[str]: Problems that stop training or distort its results."""
        return [
            kind
            for kind in self.problems
            if KINDS[kind].effect in (STOPS, WRONG)
        ]

    def text(self, show: int = 3) -> str:
        """Format the report.

        Args:
            show (int): Maximum number of locations to list for each kind of
                problem. Default: 3.

        Returns:
            str: Several lines.
        """
        lines = [self.name]
        lines += [f'  {value:>9,} {key}' for key, value in self.counts.items()]
        if self.classes:
            width = max(map(len, self.classes))
            lines.append(f'  {"class":<{width}}  {self.unit:>10}  images')
        for name, (amount, images) in self.classes.items():
            amount = (
                f'{amount:>10.2%}'
                if isinstance(amount, float)
                else f'{amount:>10,}'
            )
            lines.append(f'  {name:<{width}}  {amount}  {images:>6,}')
        lines += [f'  {remark}' for remark in self.remarks]
        for effect, meaning in EFFECTS.items():
            kinds = [k for k in KINDS if k in self.problems]
            kinds = [k for k in kinds if KINDS[k].effect == effect]
            if kinds:
                lines.append(f'  {effect}: {meaning}')
            for kind in kinds:
                found = self.problems[kind]
                lines.append(
                    f'    {kind}: {len(found):,} ({KINDS[kind].rule})'
                )
                lines += [f'      {where}' for where in found[:show]]
                if len(found) > show:
                    lines.append(f'      and {len(found) - show:,} more')
        if not self.problems:
            lines.append('  no problems found')
        return '\n'.join(lines)
