"""Runs that refuse what does not fit, and resume exactly; opt-in.

``runner_type = 'CheckedRunner'`` in a config turns it on.
"""

from .runner import CheckedRunner

__all__ = ['CheckedRunner']
