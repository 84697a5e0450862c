"""Networks that map images to logits."""
