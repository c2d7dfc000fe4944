"""The proof. Each folder says in its first lines what it proves; CONTRIBUTING.md lists the commands."""
