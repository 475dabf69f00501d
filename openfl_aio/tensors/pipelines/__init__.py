"""Compression pipelines, one a module."""
