_base_ = './sfpn_biformer_base.py'
