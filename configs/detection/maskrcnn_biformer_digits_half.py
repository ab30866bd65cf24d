# In less than half of the epochs, to compare with
# maskrcnn_biformer_digits_pretrained.
_base_ = 'maskrcnn_biformer_digits.py'

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
