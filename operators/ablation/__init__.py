"""Ablations: variants of the model trained alike on cached features, to learn what each part is worth."""
