"""What the service is measured against. Each is one ASGI app for one uvicorn process."""
