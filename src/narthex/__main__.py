"""`python -m narthex` is `narthex`."""

from narthex.cli.main import main

if __name__ == "__main__":
    main()
