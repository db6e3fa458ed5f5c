"""The interfaces through which the app uses the outside world, by role, with their guarantees. No technology here."""
