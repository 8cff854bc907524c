"""The folder that nnUNet_extTrainer names; nothing imports it as a package."""
