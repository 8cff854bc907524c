"""Metrics, statistics, efficiency and the report."""
