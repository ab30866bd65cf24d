_base_ = './biformer_small.py'
