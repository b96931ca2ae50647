"""Accuracy of LRPET and its rivals: same recipe, same seeds, same multiply-adds, measured on what is read back from disk.

python -m benchmarks.accuracy.grid RESULTS --methods dense lrpet factors --keep 0.38 --seeds 0 1 2 --epochs 12 …
python -m benchmarks.accuracy.report
"""
