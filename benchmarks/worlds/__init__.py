"""Where embedded images come from."""
