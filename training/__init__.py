"""Training: the towers, the captioner's two stages, and what is measured on them."""
