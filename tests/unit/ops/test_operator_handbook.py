"""What the operator's handbook shows of the screen, the checks and the topologies is what they are."""

from __future__ import annotations

from tests.operator_handbook import made


def test_the_handbook_shows_what_the_code_says() -> None:
    differing = [path.name for path, text in made().items() if not path.exists() or path.read_text() != text]
    assert differing == [], "python -m tests.operator_handbook writes them anew"
