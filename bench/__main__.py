"""`python -m bench` is `leakbench`."""

from bench.cli import main

if __name__ == "__main__":
    main()
