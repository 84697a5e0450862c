"""Results and test images in the formats of other tools."""
