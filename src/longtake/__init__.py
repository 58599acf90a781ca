"""LongTake: index archives of long videos once, with picture and sound, and ask any number of questions about them."""

__version__ = "0.1.0"
