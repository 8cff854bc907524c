"""``nnUNetv2_kd report``: methods compared on the same cases, as one page and as files."""
