"""How fast it is, against a baseline measured in the same run. Run by hand; see README.md."""
