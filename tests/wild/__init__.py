"""Weight files that other people's packages ship, read by this program and by the real loaders (docs/wild.md)."""
