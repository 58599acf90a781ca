"""A world of real material: named pictures that move over made backgrounds, and recorded voices that say words."""
