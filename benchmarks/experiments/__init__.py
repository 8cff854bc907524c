"""The trainings behind pages of ``docs/results``, with nnU-Net's and this package's own commands.

python -m benchmarks.experiments run datasets STUDY ... --data FOLDER -o FOLDER
python -m benchmarks.experiments largest DATASET [ARM ...] -o FOLDER
python -m benchmarks.experiments table DATASET ARM ... --against ARM -o FOLDER
"""
