"""Training on the made world: batches rendered straight to tensors, staged from snippets to long videos."""
