"""The openfl-aio command: parsing and printing, no logic."""
