"""BiFormer for MMDetection and MMSegmentation.

Importing the package registers the backbone in mmengine's root ``MODELS`` and
the hook in its ``HOOKS``, so ``custom_imports = dict(imports=['mmbiformer'])``
is all that a config needs.
"""

import mmcv
import mmengine
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version, is_installed

from .version import __version__

# Lower bounds only: the maintained forks of OpenMMLab go on counting. Torch
# 2.6 is the first whose safe loading can be taught mmengine's types.
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
# The fork of mmsegmentation has another distribution's name, which mmengine's
# fork does not know.
if not is_installed(MODULE2PACKAGE['mmseg']):
    MODULE2PACKAGE['mmseg'] = 'mmseg'

from .checkpoints.checkpoint import register_safe_loading  # noqa: E402

register_safe_loading()

from .models import BiFormer, BiLevelRoutingAttention, GlobalAttention  # noqa: E402
from .visualization.hook import RoutingVisualizationHook  # noqa: E402

__all__ = [
    'BiFormer',
    'BiLevelRoutingAttention',
    'GlobalAttention',
    'RoutingVisualizationHook',
    '__version__',
]
