"""Points that go from one member to another: a gift, or everything when two members turn out to be one person."""
