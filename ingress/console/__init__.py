"""The console: pages for an organization's people. It calls what the API calls, and names no provider."""
