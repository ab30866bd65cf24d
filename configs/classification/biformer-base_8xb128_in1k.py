_base_ = './biformer_base.py'
