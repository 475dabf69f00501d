"""Child processes for code of others: watched, limited, and ended with all that they started."""
