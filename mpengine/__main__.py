"""``python -m mpengine``."""

from mpengine.cli.main import main

if __name__ == "__main__":
    main()
