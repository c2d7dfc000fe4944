"""Points as members and tills see them: acts that change them, balances, entries and explanations."""
