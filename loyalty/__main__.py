"""`python -m loyalty`: the operator's commands of the application."""

from loyalty.cli import main

if __name__ == "__main__":
    main()
