"""`python -m purerl` is the command line."""

from purerl.cli.main import main

if __name__ == "__main__":
    main()
