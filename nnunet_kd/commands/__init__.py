"""One module per subcommand of ``nnUNetv2_kd``: ``add_arguments(parser)`` and ``run(args)``; heavy imports stay inside ``run``."""
