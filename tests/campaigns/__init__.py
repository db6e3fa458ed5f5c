"""Long campaigns against the real program; each has a short variant that always runs (`soak` marks the long)."""
