"""Reading a request: size, content type, JSON, and every defect of it at once."""

from __future__ import annotations

import re
from typing import Any

import orjson
from flask import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loyalty.infra.http.problems import BadRequest, MalformedJson, PayloadTooLarge, UnsupportedMediaType
from loyalty.infra.problems import ValidationFailed
from loyalty.infra.suggestions import known_fields, suggestion

NORMAL_BODY_BYTES = 1 << 20
MOST_DEFECTS = 100  # a list longer than this helps nobody


def read_bytes(request: Request, *, max_bytes: int = NORMAL_BODY_BYTES) -> bytes:
    """The body, refused with 413 before and while it is read if it is larger than `max_bytes`."""
    length = request.content_length
    if length is not None and length > max_bytes:
        raise too_large(max_bytes)
    # A chunked body has no announced length. Werkzeug cuts it at the limit, silently; hence one byte more than allowed.
    if length is not None:
        data = bytes(request.environ["wsgi.input"].read(length))
        if len(data) < length:
            raise BadRequest("The body ended before its announced length. Send the request again.")
        return data
    request.max_content_length = max_bytes + 1
    data = request.stream.read()
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    return data


def too_large(max_bytes: int) -> PayloadTooLarge:
    """The 413 that says how much is allowed."""
    return PayloadTooLarge(f"Send at most {max_bytes} bytes in one request.", max_bytes=max_bytes)


def require_json(request: Request) -> None:
    """415 unless the body is declared as JSON (`application/json` or `application/…+json`)."""
    declared = request.environ.get("CONTENT_TYPE", "")
    if declared != "application/json":
        kind = declared.split(";", 1)[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise UnsupportedMediaType("Send the body as Content-Type: application/json.")


def parse_json(raw: bytes) -> Any:
    """The JSON value. MalformedJson says where it goes wrong; NaN, bad UTF-8 and lone surrogates are not JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if not raw:
            raise MalformedJson("The body is empty. Send a JSON object.") from None
        raise MalformedJson(
            f"{error.msg[:1].upper()}{error.msg[1:]} at line {error.lineno}, column {error.colno}."
        ) from None


def validate(model: type[BaseModel], raw: bytes) -> Any:
    """`raw` as `model`, JSON types taken literally; ValidationFailed lists every defect."""
    try:
        return model.__pydantic_validator__.validate_json(raw)
    except ValidationError as error:
        found = defects(error, orjson.loads(raw), model=model)
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found) from None


def validate_query(model: type[BaseModel], request: Request) -> Any:
    """The query string as `model`; a parameter given twice or unknown is a defect like any other."""
    arguments: dict[str, Any] = {}
    repeated = []
    for name, values in request.args.lists():
        if len(values) > 1:
            repeated.append({"parameter": name, "code": "repeated", "detail": "Give this parameter once."})
        arguments[name] = values[0]
    try:
        result = model.model_validate(arguments)
    except ValidationError as error:
        found = [
            {
                "parameter": ".".join(str(part) for part in defect["loc"]),
                "code": _code(defect),
                "detail": _detail(defect, model=model),
            }
            for defect in _listed(error)
        ]
        raise ValidationFailed("Correct the parameters that `errors` names.", errors=repeated + found) from None
    if repeated:
        raise ValidationFailed("Correct the parameters that `errors` names.", errors=repeated)
    return result


def defects(error: ValidationError, value: Any = None, *, model: type[BaseModel] | None = None) -> list[dict[str, str]]:
    """Each defect as `{pointer, code, detail}`; the pointer follows RFC 6901.

    `value` is what was validated: it tells the fields of a path from the branches of unions, which nobody sent. With
    the `model` that it was to be, a misspelt name comes with the one that was probably meant.
    """
    found = []
    for defect in _listed(error):
        path, wrong = _sent(defect, value)
        found.append({"pointer": pointer(path), "code": _code(defect), "detail": _detail(defect, wrong, model)})
    return found


def _sent(defect: ErrorDetails, value: Any) -> tuple[tuple[int | str, ...], Any]:
    """The path of the defect in what was sent, and what stands there."""
    if value is None:
        return defect["loc"], None
    path: list[int | str] = []
    for place, part in enumerate(defect["loc"], start=1):
        is_missing = defect["type"] == "missing" and place == len(defect["loc"])
        if isinstance(value, dict) and (part in value or is_missing):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            continue
        path.append(part)
    return tuple(path), value


def pointer(path: tuple[int | str, ...]) -> str:
    """The JSON pointer of a path: `("a/b", 0)` is `/a~1b/0`, and the whole document is the empty text."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value: keys sorted, no spaces. Two bodies are the same when this is."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _listed(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)[:MOST_DEFECTS]


def _code(defect: ErrorDetails) -> str:
    kind = defect["type"]
    return _CODES.get(kind, "wrong_type" if kind.endswith(("_type", "_parsing")) else kind)


_CODES = {
    "extra_forbidden": "unknown_field",
    "missing": "missing",
    "value_error": "invalid_value",
    "enum": "invalid_value",
    "literal_error": "invalid_value",
    "string_pattern_mismatch": "invalid_value",
    "int_from_float": "wrong_type",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "union_tag_invalid": "invalid_value",
    "union_tag_not_found": "missing",
}


def _detail(defect: ErrorDetails, wrong: Any = None, model: type[BaseModel] | None = None) -> str:
    """What is wrong, and what was probably meant. `wrong` is what was sent in the place of the defect."""
    kind = defect["type"]
    if kind == "extra_forbidden":
        *path, name = defect["loc"]
        return f"There is no such field here.{suggestion(str(name), known_fields(model, path)) if model else ''}"
    if kind == "union_tag_invalid":
        field, tag = defect["ctx"]["discriminator"].strip("'"), defect["ctx"]["tag"]
        known = _QUOTED.findall(defect["ctx"]["expected_tags"])
        return f"There is no {field} {tag!r}: give one of {', '.join(known)}.{suggestion(tag, known)}"
    message = defect["msg"].removeprefix("Value error, ")
    if not message.endswith("."):
        message += "."
    if kind == "literal_error" and isinstance(wrong, str):
        message += suggestion(wrong, _QUOTED.findall(defect["ctx"]["expected"]))
    return message


_QUOTED = re.compile("'([^']*)'")
