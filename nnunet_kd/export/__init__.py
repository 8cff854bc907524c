"""A trained model folder -> a bundle that predicts by itself, without PyTorch and nnU-Net."""
