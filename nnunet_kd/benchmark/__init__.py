"""Models measured against each other on the same cases: the work of ``nnUNetv2_kd benchmark``."""
