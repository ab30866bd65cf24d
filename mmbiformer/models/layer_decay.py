"""Layer-wise decay of the learning rate."""

from typing import Any, List

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmbiformer.utils.errors import ConfigError

from .arguments import is_number


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with lower learning rates for early layers.

    A parameter of a backbone with ``get_layer_depth``, such as
    :class:`BiFormer`, gets its learning rate times ``decay_rate`` to the power
    of its distance from the last depth; all others keep theirs. The option
    ``decay_rate`` stands in ``paramwise_cfg``, beside those of mmengine.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(decay_rate=0.9, norm_decay_mult=0.0))
    """

    def _validate_cfg(self) -> None:
        """Check the options, and that there is a learning rate to scale."""
        super()._validate_cfg()
        rate = self.paramwise_cfg.get('decay_rate')
        if not is_number(rate) or not 0 < rate <= 1:
            raise ConfigError(
                "paramwise_cfg['decay_rate'] must be a number above 0 and at "
                f'most 1, got decay_rate={rate!r}'
            )
        if self.base_lr is None:
            raise ConfigError(
                'layer-wise decay needs the learning rate of the optimizer, '
                f'got optimizer={self.optimizer_cfg!r}'
            )

    def add_params(
        self,
        params: List[dict],
        module: nn.Module,
        prefix: str = '',
        **kwargs: Any,
    ) -> None:
        """Add the parameters of a module, by mmengine's rules, then scale.

        Args:
            params (list[dict]): Parameter groups; extended in place.
            module (nn.Module): The module.
            prefix (str): Its name in the model. Default: ``''``.
            **kwargs: Other arguments of mmengine's method.

        Raises:
            ConfigError: If no part of the model has ``get_layer_depth``.
        """
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        scales = self._scales(module)
        for group in params:
            (parameter,) = group['params']
            if parameter in scales:
                lr = group.get('lr', self.base_lr)
                group['lr'] = lr * scales[parameter]

    def _scales(self, model: nn.Module) -> dict:
        """Return the factor of each parameter of the backbones."""
        backbones = {
            name: module
            for name, module in model.named_modules()
            if hasattr(module, 'get_layer_depth')
        }
        if not backbones:
            raise ConfigError(
                'layer-wise decay needs a backbone with get_layer_depth, such '
                f'as BiFormer; this {type(model).__name__} has none'
            )
        rate, scales = self.paramwise_cfg['decay_rate'], {}
        for backbone in backbones.values():
            for name, parameter in backbone.named_parameters():
                depth, number = backbone.get_layer_depth(name)
                scales[parameter] = rate ** (number - 1 - depth)
        return scales
