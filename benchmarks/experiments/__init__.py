"""The trainings behind pages of ``docs/results``, with nnU-Net's and this package's own commands.

python -m benchmarks.experiments run STUDY ... --data FOLDER -o FOLDER
python -m benchmarks.experiments largest DATASET [ARM ...] -o FOLDER
python -m benchmarks.experiments table DATASET ARM ... --against ARM -o FOLDER

A study is a file in ``studies``: an arm more is a line there.
"""
