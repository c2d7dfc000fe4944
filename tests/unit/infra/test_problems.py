"""A problem carries what a client needs to act, under a code that never changes."""

from __future__ import annotations

from loyalty.infra.problems import NotFound, Problem, Unavailable, ValidationFailed


def test_the_document_has_the_members_of_rfc_9457_and_the_code() -> None:
    assert NotFound("There is no member mem_00000001.").document() == {
        "type": "/docs/errors#not_found",
        "title": "There is no such resource",
        "status": 404,
        "code": "not_found",
        "detail": "There is no member mem_00000001.",
    }


def test_what_is_needed_to_act_stands_beside_them() -> None:
    errors = [{"pointer": "/amount", "code": "decimal_string", "detail": "An amount is a decimal string."}]
    assert ValidationFailed("One field is wrong.", errors=errors).document()["errors"] == errors


def test_unavailable_says_when_to_come_back() -> None:
    assert Unavailable("The database is away.", retry_after_seconds=5).headers == {"Retry-After": "5"}


def every(problem: type[Problem]) -> list[type[Problem]]:
    return [kind for child in problem.__subclasses__() for kind in (child, *every(child))]


def test_no_two_problems_share_a_code() -> None:
    import loyalty.app  # noqa: F401  (the catalogue is complete once everything is imported)

    codes = [kind.code for kind in every(Problem)]
    assert sorted(codes) == sorted(set(codes))


def test_every_problem_is_an_error_with_a_title() -> None:
    for kind in every(Problem):
        assert 400 <= kind.status < 600
        assert kind.title
        assert kind.code == kind.code.lower().replace("-", "_")
