"""The configs that the project ships."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted(
    path
    for path in (ROOT / 'configs').glob('*/*.py')
    if '_base_' not in path.parts
)
# Files with OpenMMLab's long names, such as
# mask-rcnn_biformer-small_fpn_1x_coco.py, only inherit from another.
ALIASES = [path for path in ALL if 'biformer-' in path.stem]
RECIPES = [path for path in ALL if path not in ALIASES]
# Those of classification inherit from mmpretrain's.
CONFIGS = [
    path
    for path in RECIPES
    if path.parent.name != 'classification' or find_spec('mmpretrain')
]
