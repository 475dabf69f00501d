"""The only place that opens files or a database."""
