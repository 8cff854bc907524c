"""``nnUNetv2_kd demo``: the whole way from raw images to a distilled network, on synthetic data."""
