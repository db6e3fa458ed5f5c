"""Token verification: keys, issuers, caches, breaker."""
