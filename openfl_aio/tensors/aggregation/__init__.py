"""Aggregation functions, one published algorithm a module."""
