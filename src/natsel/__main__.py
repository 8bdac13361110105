"""``python -m natsel`` and ``torchrun -m natsel`` are the command ``natsel``."""

from natsel.cli.main import main

if __name__ == "__main__":
    main()
