_base_ = './upernet_biformer_base.py'
