"""HTTP routes: health, auth provider, API, AG-UI, pages."""
