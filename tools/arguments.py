"""``mmbiformer.utils.arguments``, for tools that answer ``--help`` at once.

The package imports torch, which takes seconds. This module loads the one file
without it.
"""

import sys
from importlib.util import find_spec, spec_from_file_location

_package = find_spec('mmbiformer')
if _package is None:
    sys.exit('mmbiformer is not installed, see README.md')
(_folder,) = _package.submodule_search_locations
_spec = spec_from_file_location(__name__, f'{_folder}/utils/arguments.py')
_spec.loader.exec_module(sys.modules[__name__])
