"""Many products and many images on whatever machines there are, nothing done twice."""
