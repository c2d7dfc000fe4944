"""`python -m loyalty.ops`: the same as `./appliance`, without making the virtual environment first."""

from loyalty.ops.cli import main

if __name__ == "__main__":
    main()
