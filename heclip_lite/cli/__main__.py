"""``python -m heclip_lite.cli``."""

from heclip_lite.cli.program import main

if __name__ == "__main__":
    main()
