_base_ = './sfpn_biformer.py'
