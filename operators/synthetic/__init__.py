"""A made world whose truth is known: scripts of events, their pictures and sound as tensors, and questions."""
