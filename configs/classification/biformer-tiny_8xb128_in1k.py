_base_ = './biformer_tiny.py'
