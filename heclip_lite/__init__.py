"""Predict spatial gene expression from H&E histology, and judge the prediction honestly.

Start with :mod:`heclip_lite.sections` (what a slide is), :mod:`heclip_lite.methods` (what predicts)
and :mod:`heclip_lite.evaluation` (what judges).
Importing this package imports nothing heavy: name the module you need.
"""

__version__ = "0.1.0"
