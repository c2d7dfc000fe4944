"""Pages for people: the API's documentation and the console. No business logic."""
