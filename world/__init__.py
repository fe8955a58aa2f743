"""The miniature world: a small, seeded, procedural remote-sensing corpus with known truth."""
