"""What measures: one file a table under ``book/results``; `jobs` holds what they share.

`yardstick` holds predictions of two commits against each other, `faults` the tests against faults.
Each is started from the root of the project: ``python -m book.tools.measure.contest``.
"""
