"""Networks of the ImageNet CGN."""
