"""The table of what a file computes beside PyTorch."""

from typing import Dict, NamedTuple, Sequence, Tuple

from mmbiformer.utils.errors import UserError

TOLERANCES: Dict[str, float] = dict(
    logits=1e-5,
    maps=1e-5,
    boxes=1e-3,
    scores=1e-5,
    masks=1e-4,
    affinities=1e-5,
)
"""dict[str, float]: Largest difference from PyTorch that is accepted: boxes
in pixels, scores and masks as they are, logits, maps and affinities in units
of their largest value where that is above 1."""

DRAWN, GREY = 'drawn', 'grey'
"""str: Names of the images that are not the user's."""


class VerificationError(UserError, ArithmeticError):
    """A file does not compute what the model computes."""


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        images (str): What was compared.
        shape (tuple): Shape of the input.
        differences (dict): Largest difference of each output.
        found (str): Numbers of detections, or the classes of images.
        problem (str): What is wrong, or ``''``.
        unstable (bool): Whether PyTorch itself predicts something else if
            pixels and weights change by what float32 hardly resolves, so
            that the difference proves nothing. Default: False.
    """

    images: str
    shape: Tuple[int, ...]
    differences: Dict[str, float]
    found: str
    problem: str
    unstable: bool = False

    @property
    def own(self) -> bool:
        """bool: Whether the images were drawn here, to be stable ones."""
        return self.images in (DRAWN, GREY)

    @property
    def failed(self) -> bool:
        """bool: Whether the file is to be refused."""
        return bool(self.problem) and (self.own or not self.unstable)

    @property
    def outcome(self) -> str:
        """str: What comes of the comparison."""
        if not self.problem:
            return 'equal'
        kind = 'FAILED' if self.failed else 'unstable'
        also = ' (unstable)' if self.failed and self.unstable else ''
        return f'{kind}: {self.problem}{also}'


def unproven(rows: Sequence[Row]) -> str:
    """Tell which images of the user prove nothing of a file.

    Args:
        rows (Sequence[Row]): Lines of the table.

    Returns:
        str: A line that names them, or ``''``.

    Raises:
        VerificationError: If there are such images, and no others.
    """
    # An image has two lines where the routing is compared, too.
    given = dict.fromkeys(row.images for row in rows if not row.own)
    some = [
        name
        for name in given
        if any(row.unstable for row in rows if row.images == name)
    ]
    if not some:
        return ''
    line = (
        f'{len(some)} of {len(given)} images of --verify prove nothing, as '
        "PyTorch's own predictions for them change with the last digits: "
        + ', '.join(some)
    )
    if len(some) == len(given):
        raise VerificationError(
            f'{line}. The file was not verified on an image of yours, and was '
            f'not kept: give others\n{format_table(rows)}'
        )
    return line


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as text, with the accepted differences."""
    kinds = [
        kind
        for kind in TOLERANCES
        if any(kind in row.differences for row in rows)
    ]
    header = ['images', 'input', *kinds, 'found', '']
    lines = [header]
    lines.extend(
        [
            row.images,
            'x'.join(map(str, row.shape)),
            *(
                f'{row.differences[kind]:.1e}'
                if kind in row.differences
                else '-'
                for kind in kinds
            ),
            row.found or '-',
            row.outcome,
        ]
        for row in rows
    )
    lines.append(
        [
            'accepted',
            '',
            *(f'{TOLERANCES[kind]:.0e}' for kind in kinds),
            '',
            '',
        ]
    )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return '\n'.join(
        '  '.join(
            text.ljust(width) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
