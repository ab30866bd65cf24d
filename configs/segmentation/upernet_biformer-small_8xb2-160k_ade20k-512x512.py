_base_ = './upernet_biformer.py'
