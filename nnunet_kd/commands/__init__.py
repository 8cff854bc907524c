"""One module per subcommand: ``add_arguments(parser)`` and ``run(args)``; heavy imports stay inside ``run``."""
