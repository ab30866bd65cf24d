"""Numbers of segments as colors: red + 256 green + 65536 blue."""

import numpy as np


def rgb2id(color):
    color = np.asarray(color).astype(np.int32)
    return color @ np.array([1, 256, 65536], np.int32)


def id2rgb(number):
    number = np.asarray(number)[..., None]
    return (number // [1, 256, 65536] % 256).astype(np.uint8)
