"""The papers' data sets, and any folders of images and labels, as nnU-Net data sets; one file for each data set."""
