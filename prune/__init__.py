"""Data pruning: Stage I (entropy), encoders, Stage II (reference-guided selection)."""
