"""The participant: fetches tensors, runs tasks, uploads results."""
