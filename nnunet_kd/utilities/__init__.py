"""Independent of distillation: errors, files, schemas, processes, nnU-Net's files and folders."""
