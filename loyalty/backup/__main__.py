"""`loyalty-backup`, or `python -m loyalty.backup`: the commands of the backup host."""

from loyalty.backup.cli import main

if __name__ == "__main__":
    main()
