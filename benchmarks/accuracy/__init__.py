"""Accuracy of LRPET and its rivals: equal recipes, seeds and multiply-adds, measured on what is read back from disk.

python -m benchmarks.accuracy.grid benchmarks/results --methods dense lrpet factors --keep 0.38 --seeds 0 1 2 --epochs 12 …
python -m benchmarks.accuracy.report

Each result is a line of `accuracy.jsonl`: its cell (model, data, method, keep, epochs, seed), costs, ranks, accuracies,
seconds, command, commit, hardware, versions, and the settings of every training that it took. Its curves are a line of
`accuracy-curves.jsonl`, rounded to six digits: loss and accuracy of each epoch, and what each projection pruned.
"""
