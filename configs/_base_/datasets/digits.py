# Scenes of handwritten digits, made by the project itself.
data_preparation = 'python tools/dataset_converters/digits.py data/digits'

data_root = 'data/digits/'
classes = tuple('0123456789')
