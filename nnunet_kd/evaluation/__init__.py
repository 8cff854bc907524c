"""How good and how costly predictions are: metrics, statistics, efficiency and the report."""
