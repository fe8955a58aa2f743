"""Super-resolution and semantic image synthesis on a pretrained DiT."""
