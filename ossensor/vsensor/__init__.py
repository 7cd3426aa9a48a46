"""The collector: verifies, de-duplicates and stores what sensors send."""
