"""From an image to what the backbone sees of it: framing, pose, light, zones, tiles, copies."""
