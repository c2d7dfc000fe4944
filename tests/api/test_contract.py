"""The API document against the running application: what schemathesis makes up from the one must suit the other.

Left out is the check that every request which fits the schemas is accepted: whether a member exists, or a currency is
the program's, no schema can say.
"""

from __future__ import annotations

import base64
import json
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks

from loyalty.app import create_app
from loyalty.config import Settings
from tests.servers import Application, Mongod, new_program

load_all_checks()

NOT_DECIDABLE = ["positive_data_acceptance"]
LINE_BY_LINE = {"/v1/events/batch"}  # answers 200 with a refusal in the place of each bad line


@schemathesis.serializer("application/x-ndjson")
def one_value_a_line(_: Any, value: Any) -> bytes:
    """What stands for lines of JSON is a text, or whatever schemathesis sends in its place."""
    return value.encode(errors="surrogateescape") if isinstance(value, str) else json.dumps(value).encode()


def document() -> dict[str, Any]:
    """The API document, made without a server, so that every operation is a test of its own."""
    key = base64.b64encode(bytes(32)).decode()
    settings = Settings(mongo_uri="mongodb://127.0.0.1:1", secret_key="x" * 32, seal_key=key)
    return cast("dict[str, Any]", create_app(settings).spec)


def shallow(spec: dict[str, Any]) -> dict[str, Any]:
    """The document with conditions that hold no further ones: what is made up for it has an end."""
    for name in ("AllOf-Input", "AnyOf-Input", "NoneOf-Input", "Not-Input", "Lines-Input"):
        for field in spec["components"]["schemas"][name]["properties"].values():
            holder = field.get("items", field)
            if "anyOf" in holder:
                holder["anyOf"] = [form for form in holder["anyOf"] if not form["$ref"].endswith("-Input")]
    return spec


schema = schemathesis.openapi.from_dict(shallow(document()))


@pytest.fixture(scope="module")
def authorization(mongod: Mongod) -> dict[str, str]:
    return {"Authorization": f"Bearer {new_program(mongod.uri, 'application')}"}


# Not the examples: `test_examples_work_as_they_stand` tries them. Conditions hold conditions, and spelling out what is
# given as an example somewhere in them, at every depth, would not end.
WITHOUT_EXAMPLES = (Phase.reuse, Phase.generate, Phase.shrink)


@schema.parametrize()
@settings(
    phases=WITHOUT_EXAMPLES,
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_the_application_keeps_its_word(
    case: schemathesis.Case, application: Application, authorization: dict[str, str]
) -> None:
    answer = case.call(base_url=application.url, headers=authorization)
    if answer.status_code == 414:
        return  # the server's own answer to a request line that is too long: the application was never asked
    # An empty list has no form in a URL: a parameter of that value was never sent.
    unsent = set(case.query or {}) - set(parse_qs(urlsplit(str(answer.request.url)).query, keep_blank_values=True))
    undecided = ["negative_data_rejection"] if case.path in LINE_BY_LINE or unsent else []
    not_decidable = [*NOT_DECIDABLE, *undecided]
    excluded: list[Any] = [schemathesis.checks.CHECKS.get_one(name) for name in not_decidable]
    case.validate_response(answer, excluded_checks=excluded, headers=authorization)


def test_examples_work_as_they_stand(api: httpx.Client) -> None:
    """Each example of the document is accepted, or refused for what it refers to and never for its form."""
    document = api.get("/v1/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                filled = path
                for parameter in operation["parameters"]:
                    if parameter["in"] == "path":
                        named = str(parameter["schema"]["examples"][0])
                        filled = filled.replace(f"{{{parameter['name']}}}", named)
                answer = api.request(method, filled, json=example["value"], headers={"If-Match": '"v1"'})
                assert answer.status_code in (200, 201, 202, 403, 404, 409, 412), f"{method} {path}: {answer.text}"
                tried += 1
    assert tried >= 10


def test_everything_is_described(api: httpx.Client) -> None:
    document = api.get("/v1/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    silent = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            if not operation.get("summary") or not operation.get("operationId") or not operation.get("tags"):
                silent.append(where)
            silent += [f"{where} {given['name']}" for given in operation["parameters"] if not given["description"]]
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is not None and not content.get("examples"):
                silent.append(f"{where} has no example")
    for name, found in document["components"]["schemas"].items():
        silent += [
            f"{name}.{field}"
            for field, schema_ in found.get("properties", {}).items()
            if not schema_.get("description")
        ]
    assert silent == []


def test_every_refusal_is_listed(api: httpx.Client) -> None:
    document = api.get("/v1/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert {"400", "500", "503"} <= statuses, (method, path)
            if operation["security"]:
                assert {"401", "403", "429"} <= statuses, (method, path)
                assert (
                    operation["x-scope"]
                    in document["components"]["schemas"]["NewKey"]["properties"]["scopes"]["items"]["enum"]
                )
            if operation.get("requestBody"):
                assert {"413", "422"} <= statuses, (method, path)
