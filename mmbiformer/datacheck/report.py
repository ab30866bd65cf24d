"""What can be wrong with data, and the report of what is."""

from collections import Counter
from typing import Dict, List, NamedTuple, Sequence, Tuple

STOPS = 'stops'
WRONG = 'wrong'
SKIPPED = 'skipped'
NOTE = 'note'
EFFECTS = {
    STOPS: 'training or testing stops with an error',
    WRONG: 'training and testing go on, with wrong results',
    SKIPPED: 'left out',
    NOTE: 'used',
}
"""dict[str, str]: What training and testing do with a problem."""


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        effect (str): One of :data:`EFFECTS`.
        rule (str): What training and testing do with it.
    """

    effect: str
    rule: str


KINDS = {
    # Settings and files as a whole.
    'missing file or folder': Kind(STOPS, 'an error lists what is missing'),
    'heads do not fit the classes': Kind(STOPS, 'an error names the head'),
    'data set cannot be read': Kind(STOPS, 'an error names the data set'),
    'no image': Kind(STOPS, 'an error names the data set'),
    'class without a category': Kind(STOPS, 'an error names the classes'),
    'classes in another order': Kind(
        STOPS, 'an error shows the order of the categories'
    ),
    'category twice': Kind(STOPS, 'an error names the classes'),
    'category that is no class': Kind(SKIPPED, 'its objects are left out'),
    'class without an object': Kind(
        NOTE, 'it is not learned in training, and not counted in testing'
    ),
    # Records of annotations.
    'record without a key': Kind(STOPS, 'an error names the key'),
    'record with a wrong value': Kind(
        STOPS, 'an error names the data set or the image'
    ),
    'image id twice': Kind(WRONG, 'the first of the images is not read'),
    'object id twice': Kind(STOPS, 'an error names the annotations'),
    'object of an unknown image': Kind(SKIPPED, 'the object is left out'),
    'object of an unknown category': Kind(SKIPPED, 'the object is left out'),
    'image without objects': Kind(
        SKIPPED,
        'left out of training where filter_cfg.filter_empty_gt is set, else '
        'used as background',
    ),
    'image below filter_cfg.min_size': Kind(SKIPPED, 'left out of training'),
    'box without area': Kind(
        SKIPPED, 'an object less than a pixel wide or high is left out'
    ),
    'box outside the image': Kind(SKIPPED, 'the object is left out'),
    'box partly outside the image': Kind(NOTE, 'Resize cuts the box'),
    'object without a mask': Kind(STOPS, 'an error names the image'),
    'mask without a polygon': Kind(
        SKIPPED, 'the object counts as crowd: neither object nor background'
    ),
    'mask that does not fit the image': Kind(
        STOPS, 'an error names the image'
    ),
    'mask without a pixel': Kind(
        NOTE, 'the box is learned, with a mask of background'
    ),
    'mask larger than its box': Kind(NOTE, 'the box cuts the mask'),
    'mask outside its box': Kind(WRONG, 'the mask is learned as background'),
    # Image files.
    'missing image': Kind(STOPS, 'an error names the file'),
    'broken image': Kind(STOPS, 'an error names the file'),
    'image of another size': Kind(STOPS, 'an error names the file'),
    'image that the pipeline cannot take': Kind(
        STOPS, 'an error names the file'
    ),
    'image turned by EXIF': Kind(
        NOTE, 'it is turned; boxes and masks must be those of the turned one'
    ),
    'grey image': Kind(NOTE, 'grey values go into all three channels'),
    'image with transparency': Kind(
        NOTE, 'transparency is dropped, hidden colours show'
    ),
    'CMYK image': Kind(NOTE, 'converted to RGB without a colour profile'),
    '16-bit image': Kind(
        NOTE, 'values are divided by 256: 12-bit pictures are nearly black'
    ),
    'picture of another suffix': Kind(
        SKIPPED, 'only files of img_suffix are read'
    ),
    # Label maps.
    'missing label map': Kind(STOPS, 'an error names the file'),
    'broken label map': Kind(STOPS, 'an error names the files'),
    'label map of another size': Kind(STOPS, 'an error names the files'),
    'label map not turned by EXIF': Kind(
        WRONG, 'the image is turned, its label map is not'
    ),
    'label outside the classes': Kind(STOPS, 'an error names the file'),
    'label map without a class': Kind(NOTE, 'all of it is ignored'),
    'label map without an image': Kind(SKIPPED, 'not read'),
}
"""dict[str, Kind]: What can be wrong."""


Finding = Tuple[str, str]
"""A kind of problem, and where it is."""


class SplitReport:
    """What is in one data set of a config, and what is wrong with it.

    Args:
        name (str): What to call it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Dict[str, int] = Counter()
        self.classes: Dict[str, Tuple[float, int]] = {}
        self.unit = 'objects'
        self.problems: Dict[str, List[str]] = {}
        self.remarks: List[str] = []

    def add(self, kind: str, where: object) -> None:
        """Add a problem.

        Args:
            kind (str): One of :data:`KINDS`.
            where (object): The file, or what else it concerns.
        """
        self.problems.setdefault(kind, []).append(str(where))

    def extend(self, findings: Sequence[Finding]) -> None:
        """Add several problems."""
        for kind, where in findings:
            self.add(kind, where)

    @property
    def fatal(self) -> List[str]:
        """list[str]: Kinds that stop training or make it wrong."""
        return [
            kind
            for kind in self.problems
            if KINDS[kind].effect in (STOPS, WRONG)
        ]

    def text(self, show: int = 3) -> str:
        """Return the report, to be printed.

        Args:
            show (int): Files to name for each kind of problem. Default: 3.

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
            lines.append('  nothing is wrong')
        return '\n'.join(lines)
