"""`python -m ingress` and the command `ingress`."""

from .cli.main import main

if __name__ == "__main__":
    main()
