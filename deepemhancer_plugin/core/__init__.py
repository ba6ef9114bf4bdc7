"""The enhancer itself: NumPy, SciPy, mrcfile and Keras; never Scipion.

`enhance.py` is the way of a map through the program, from top to bottom.
"""
