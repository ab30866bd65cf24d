_base_ = './upernet_biformer_tiny.py'
