"""What the app needs from the world, by role, with the guarantees in the docstrings. No technology here."""
