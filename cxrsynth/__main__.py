"""`python -m cxrsynth`."""

from cxrsynth.cli import main

if __name__ == "__main__":
    main()
