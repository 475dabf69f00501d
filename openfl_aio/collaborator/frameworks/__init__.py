"""Task runners for one framework each."""
