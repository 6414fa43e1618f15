"""A-MOT: a sample of an image's patches, and where that does not suffice the ones that matter."""
