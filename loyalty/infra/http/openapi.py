"""The OpenAPI 3.1 document, from the endpoints' declarations.

APIFlask walks the routes; everything that the types and the declarations know is filled in here: bodies, parameters,
answers, every refusal with its code, headers. Nothing is written twice, so nothing can disagree with the code.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from inspect import cleandoc
from typing import Any, cast, get_args, get_origin

from apiflask import APIFlask
from flask import Response
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from loyalty.infra.http.endpoint import Api, Endpoint
from loyalty.infra.http.render import PROBLEM_JSON
from loyalty.infra.http.reply import JSON, Reply
from loyalty.infra.problems import Problem, ValidationFailed

Json = dict[str, Any]
SECURITY = "api_key"
References = Mapping[Any, Json]  # by (model, mode)

_REF = "#/components/schemas/{model}"


def document_api(app: APIFlask, apis: Iterable[Api], *, description: str, server: str) -> None:
    """Make `app.spec` the complete document of `apis`."""
    app.config.update(
        SERVERS=[{"url": server, "description": "This installation"}],
        INFO={"description": description, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        SECURITY_SCHEMES={
            SECURITY: {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "lk_…",
                "description": "An API key of the program. Each operation names the scope that the key must have.",
            }
        },
        AUTO_200_RESPONSE=False,
        AUTO_404_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
    )
    endpoints = [endpoint for api in apis for endpoint in api.endpoints]

    @app.spec_processor
    def complete(spec: Json | str) -> Json | str:
        return _complete(cast(Json, spec), endpoints)


def operation_id(endpoint: Endpoint) -> str:
    """The name of the operation: that of its view."""
    return endpoint.view.__name__


def problem_classes(endpoints: Iterable[Endpoint]) -> list[type[Problem]]:
    """Every refusal that an endpoint declares, by status and code."""
    classes = {problem for endpoint in endpoints for problem in endpoint.problems}
    return sorted(classes, key=lambda problem: (problem.status, problem.code))


def explanation(problem: type[Problem]) -> str:
    """What the problem means, from its docstring."""
    text = problem.__doc__ if problem.__doc__ != Problem.__doc__ else None
    return " ".join(cleandoc(text or problem.title + ".").split())


def _complete(spec: Json, endpoints: list[Endpoint]) -> Json:
    components = spec.setdefault("components", {})
    references, schemas = _schemas(endpoints)
    components["schemas"] = {**schemas, "Problem": _PROBLEM, "ValidationProblem": _VALIDATION_PROBLEM}
    components["headers"] = _HEADERS
    components["examples"] = {
        problem.code: {"summary": problem.title, "value": _example(problem)} for problem in problem_classes(endpoints)
    }
    responses: Json = {}
    components["responses"] = responses
    for endpoint in endpoints:
        path = re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", endpoint.path)
        spec["paths"][path][endpoint.method.lower()].update(_operation(endpoint, references, responses))
    order = {tag["name"]: place for place, tag in enumerate(spec.get("tags", []))}
    spec["paths"] = dict(
        sorted(
            spec["paths"].items(),
            key=lambda item: (order.get(next(iter(item[1].values()))["tags"][0], 0), len(item[0])),
        )
    )
    return spec


def _schemas(endpoints: list[Endpoint]) -> tuple[References, Json]:
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for endpoint in endpoints:
        for model in (endpoint.body, *_models_in(endpoint.reads)):
            if model is not None:
                wanted[model, "validation"] = None
        answer = _answer_model(endpoint.answer)
        if answer is not None:
            wanted[answer, "serialization"] = None
    references, document = models_json_schema(list(wanted), ref_template=_REF)
    schemas: Json = document.get("$defs", {})
    for schema in schemas.values():
        _tidy(schema)
    return references, schemas


def _operation(endpoint: Endpoint, references: References, responses: Json) -> Json:
    operation: Json = {
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint), *_header_parameters(endpoint)],
        "responses": {**_answers(endpoint, references), **_refusals(endpoint, responses)},
    }
    if endpoint.scope:
        operation["security"] = [{SECURITY: []}]
        operation["x-scope"] = endpoint.scope
    else:
        operation["security"] = []
    if endpoint.media:
        operation["requestBody"] = {"required": True, "content": _request_content(endpoint, references)}
    return operation


def _request_content(endpoint: Endpoint, references: References) -> Json:
    if endpoint.body is not None:
        schema = references[endpoint.body, "validation"]
    else:
        schema = _array_or_reference(endpoint.reads, references)
    content: Json = {}
    for media in endpoint.media:
        if media == JSON:
            content[media] = {"schema": schema}
            if endpoint.example is not None:
                content[media]["examples"] = {"works": {"summary": "Works as it stands", "value": endpoint.example}}
        elif media == "multipart/form-data":
            content[media] = {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary", "description": "The content."}},
                    "required": ["file"],
                }
            }
        elif media.endswith("ndjson"):
            content[media] = {"schema": {"type": "string", "description": "One JSON object a line."}}
        elif media.endswith("yaml"):
            content[media] = {"schema": {"type": "string", "description": "The same as YAML."}}
        else:
            content[media] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _array_or_reference(reads: Any, references: References) -> Json:
    models = _models_in(reads)
    if not models:
        return {}
    reference = references[models[0], "validation"]
    return {"type": "array", "items": reference} if get_origin(reads) is list else reference


def _models_in(reads: Any) -> list[type[BaseModel]]:
    candidates = get_args(reads) or (reads,)
    return [model for model in candidates if isinstance(model, type) and issubclass(model, BaseModel)]


def _answer_model(answer: Any) -> type[BaseModel] | None:
    """`Model` of `-> Model` and of `-> Reply[Model]`; None for a bare response."""
    if get_origin(answer) is Reply:
        (answer,) = get_args(answer)
    return answer if isinstance(answer, type) and issubclass(answer, BaseModel) else None


def _answers(endpoint: Endpoint, references: References) -> Json:
    model = _answer_model(endpoint.answer)
    headers = ["X-Request-Id"]
    if endpoint.scope:
        headers += ["RateLimit", "RateLimit-Policy"]
    if endpoint.method == "GET":
        headers.append("ETag")
    if endpoint.idempotent:
        headers.append("Idempotent-Replayed")
    answers: Json = {}
    meaning = cleandoc((model or endpoint.view).__doc__ or "").splitlines()[0]
    for status, description in {endpoint.status: meaning, **endpoint.answers}.items():
        answer: Json = {"description": description, "headers": {name: _header(name) for name in headers}}
        if model is not None:
            answer["content"] = {JSON: {"schema": references[model, "serialization"]}}
            if "next_cursor" in model.model_fields:
                answer["headers"]["Link"] = _header("Link")
        elif endpoint.answer is Response:
            answer["content"] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        if status == 201:
            answer["headers"]["Location"] = _header("Location")
        answers[str(status)] = answer
    if endpoint.method == "GET":
        answers["304"] = {"description": "The client has it already.", "headers": {"ETag": _header("ETag")}}
    return answers


def _refusals(endpoint: Endpoint, responses: Json) -> Json:
    """A reference for each status; what it refers to is shared by the endpoints and added to `responses`."""
    by_status: defaultdict[int, list[type[Problem]]] = defaultdict(list)
    for problem in endpoint.problems:
        by_status[problem.status].append(problem)
    answers = {}
    for status, problems in sorted(by_status.items()):
        codes = sorted({problem.code for problem in problems})
        base = "ValidationProblem" if codes == [ValidationFailed.code] else "Problem"
        answer: Json = {
            "description": "\n".join(
                f"- `{problem.code}`: {explanation(problem)}" for problem in sorted(problems, key=lambda one: one.code)
            ),
            "content": {
                PROBLEM_JSON: {
                    "schema": {"allOf": [{"$ref": _REF.format(model=base)}, {"properties": {"code": {"enum": codes}}}]},
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
                }
            },
            "headers": {"X-Request-Id": _header("X-Request-Id")},
        }
        if status in (429, 503):
            answer["headers"]["Retry-After"] = _header("Retry-After")
        name = ".".join([str(status), *codes])
        responses[name] = answer
        answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return answers


def _path_parameters(endpoint: Endpoint) -> list[Json]:
    return [
        _parameter(name, "path", _inline(endpoint.path_types[name]), required=True)
        for name in re.findall(r"<(?:[^<:]+:)?([^>]+)>", endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[Json]:
    if endpoint.query is None:
        return []
    schema = endpoint.query.model_json_schema()
    required = schema.get("required", [])
    parameters = []
    for name, found in schema["properties"].items():
        _tidy(found)
        parameters.append(_parameter(name, "query", _without_null(found), required=name in required))
    return parameters


def _header_parameters(endpoint: Endpoint) -> list[Json]:
    parameters = []
    if endpoint.idempotent:
        parameters.append(
            _parameter(
                "Idempotency-Key",
                "header",
                {
                    "type": "string",
                    "pattern": "^[\\x21-\\x7e]{1,255}$",
                    "description": "Chosen by you for this change, such as a UUID. The same request again with the "
                    "same key has the first answer and no further effect.",
                    "examples": ["4f0d7c1e-2b3a-4c5d-8e6f-7a8b9c0d1e2f"],
                },
                required=False,
            )
        )
    if endpoint.if_match:
        parameters.append(
            _parameter(
                "If-Match",
                "header",
                {
                    "type": "string",
                    "pattern": '^(\\*|"v[0-9]{1,15}")$',
                    "description": "The ETag of what you read; the change is refused if it is another one by now.",
                    "examples": ['"v1"'],
                },
                required=False,
            )
        )
    return parameters


def _parameter(name: str, place: str, schema: Json, *, required: bool) -> Json:
    description = schema.pop("description", "")
    return {"name": name, "in": place, "required": required, "description": description, "schema": schema}


def _inline(hint: Any) -> Json:
    schema = TypeAdapter(hint).json_schema()
    _tidy(schema)
    return schema


def _without_null(schema: Json) -> Json:
    """A query parameter is absent or has a value; null cannot be sent."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default") or not kinds}
    return {**kinds[0], **rest} if len(kinds) == 1 else schema


def _tidy(schema: Any) -> None:
    """Drop the titles that pydantic makes from field names: they say nothing that the name does not."""
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for name, value in schema.items():
            if name not in ("examples", "default", "enum", "const"):
                _tidy(value)
    elif isinstance(schema, list):
        for value in schema:
            _tidy(value)


def _header(name: str) -> Json:
    return {"$ref": f"#/components/headers/{name}"}


def _example(problem: type[Problem]) -> Json:
    document: Json = {
        "type": f"/docs/errors#{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": explanation(problem),
        "request_id": "5f3c9a7e1b2d4c6f8a0b1c2d",
    }
    if problem is ValidationFailed:
        document["errors"] = [{"pointer": "/amount", "code": "wrong_type", "detail": "Input should be a valid string."}]
    return document


_PROBLEM: Json = {
    "type": "object",
    "description": "Why a request was refused, by RFC 9457. Further members hold what is needed to act.",
    "properties": {
        "type": {"type": "string", "description": "Where the problem is explained.", "format": "uri-reference"},
        "title": {"type": "string", "description": "What kind of problem it is; the same for every occurrence."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "code": {"type": "string", "description": "Stable name of the problem, for programs."},
        "detail": {"type": "string", "description": "What is wrong with this request, and what to do."},
        "request_id": {"type": "string", "description": "Names the request in the operator's log."},
    },
    "required": ["type", "title", "status", "code", "detail", "request_id"],
}
_VALIDATION_PROBLEM: Json = {
    "description": "A well-formed request with defects: all of them.",
    "allOf": [{"$ref": "#/components/schemas/Problem"}],
    "type": "object",
    "properties": {
        "errors": {
            "type": "array",
            "description": "Every defect.",
            "items": {
                "type": "object",
                "description": "One defect.",
                "properties": {
                    "pointer": {"type": "string", "description": "Where in the body, as a JSON pointer (RFC 6901)."},
                    "parameter": {"type": "string", "description": "Or which parameter of the query string."},
                    "code": {"type": "string", "description": "Stable name of the defect."},
                    "detail": {"type": "string", "description": "What is wrong."},
                },
                "required": ["code", "detail"],
            },
        }
    },
    "required": ["errors"],
}
_HEADERS: Json = {
    "X-Request-Id": {
        "description": "The id of the request: yours if you sent a sane one, else ours.",
        "schema": {"type": "string"},
    },
    "ETag": {"description": "Strong tag of what the answer shows.", "schema": {"type": "string"}},
    "Link": {"description": "The next page, if there is one.", "schema": {"type": "string"}},
    "Location": {"description": "Where the new resource is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before the same request again.", "schema": {"type": "string"}},
    "RateLimit": {
        "description": 'What is left of the limit and for how many seconds: `"key";r=5999;t=42`.',
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'The limit of the key: `"key";q=6000;w=60` is 6000 requests in 60 seconds.',
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "`true` when this is the stored answer of an earlier request with the same key.",
        "schema": {"type": "string"},
    },
}
