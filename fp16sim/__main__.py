"""``python -m fp16sim``."""

from fp16sim.cli import main

if __name__ == "__main__":
    main()
