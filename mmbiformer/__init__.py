"""BiFormer for MMDetection, MMSegmentation and MMPreTrain.

Importing the package registers the backbone and the plugin layer in mmengine's
root ``MODELS``, the hooks in its ``HOOKS`` and the runner in its ``RUNNERS``,
so ``custom_imports = dict(imports=['mmbiformer'])`` is all that a config
needs.

One thing changes for other code in the process: the plain data types that
mmengine's checkpoints hold are added to torch's allow-list, so that
``torch.load`` with ``weights_only=True`` takes these checkpoints.
"""

import mmcv
import mmengine
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version

from .version import __version__

# Lower bounds only: the maintained forks of OpenMMLab have later versions.
# Torch 2.6 is the first with a list of types that safe loading allows.
MINIMUM_VERSIONS = {torch: '2.6.0', mmengine: '0.10.0', mmcv: '2.0.0'}

for _module, _minimum in MINIMUM_VERSIONS.items():
    if digit_version(_module.__version__) < digit_version(_minimum):
        raise ImportError(
            f'mmbiformer {__version__} needs {_module.__name__} >= '
            f'{_minimum}, but {_module.__name__} {_module.__version__} is '
            f'installed'
        )

# Lets configs inherit from 'mmbiformer::detection/maskrcnn_biformer.py'. With
# the distribution's name, mmengine would look into site-packages, where an
# editable install is not; with a module's, it asks where that module lies.
MODULE2PACKAGE.setdefault('mmbiformer', 'mmbiformer.version')

from .checkpoints.allowed_types import allow_mmengine_types  # noqa: E402

allow_mmengine_types()

from .models import (  # noqa: E402
    BiFormer,
    BiLevelRoutingAttention,
    BRANeck,
    BRAPlugin,
    GlobalAttention,
)
from .reliable.runner import CheckedRunner  # noqa: E402
from .visualization.classes import ClassVisualizationHook  # noqa: E402
from .visualization.hook import RoutingVisualizationHook  # noqa: E402

__all__ = [
    'BRANeck',
    'BRAPlugin',
    'BiFormer',
    'BiLevelRoutingAttention',
    'CheckedRunner',
    'ClassVisualizationHook',
    'GlobalAttention',
    'RoutingVisualizationHook',
    '__version__',
]
