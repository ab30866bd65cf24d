# 12 epochs, steps at 8 and 11, linear warm-up over 500 iterations from 0.001;
# the learning rate is for a batch of 16 (--auto-scale-lr).
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

# The authors trained in mixed precision (--amp).
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999))
)
