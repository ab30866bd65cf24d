"""Importing this module makes every load of mmengine strict.

It is for configs of other runners and for scripts that load files of others::

    custom_imports = dict(
        imports=['mmbiformer', 'mmbiformer.checkpoints.safe_loading']
    )

See :func:`mmbiformer.checkpoints.strict.install` for what it changes in this
process.
"""

from .strict import install

install()
