"""Where a secret's value comes from: a value, a file, Google Secret Manager."""
