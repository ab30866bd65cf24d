_base_ = './biformer_stl.py'
