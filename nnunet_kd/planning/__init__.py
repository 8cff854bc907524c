"""Plans for teachers and students: architecture, cost and the ``"kd"`` block, from plans that nnU-Net has made."""
