# From the backbone of the classifier biformer_digits instead of from scratch,
# in less than half of the epochs.
_base_ = 'maskrcnn_biformer_digits.py'

model = dict(backbone=dict(init_cfg=_base_.from_classifier))

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
