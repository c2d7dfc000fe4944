"""One decorator per endpoint: the signature of the view is the contract.

    programs = Api("programs", "Programs", "What a program is.")

    @programs.patch("/v1/programs/<program_id>", scope="programs:write", if_match="required", problems=(NotFound,))
    def change_program(context: Context, program_id: str, body: ProgramChange) -> Reply[ProgramOut]:
        '''Change a program

        Only the fields that are sent change.'''

A view takes the context, the variable parts of the path, and when it has parameters of these names: `body` (a `Body`
model), `raw` (the bytes, for bodies that are not one JSON object), `upload` (the request, whose body the view reads as
a stream), `query` (a `Query` model). It returns a model, or a `Reply` where status, entity tag or headers differ.
Variable parts of the path are `Annotated` with their description. Everything else (key, rate limit, scope, size,
content type, JSON, all defects at once, idempotency, ETag, 304) happens here, in this order, and lands in the document.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import Request, Response, current_app, request
from pydantic import BaseModel

from loyalty.infra.http import body as bodies
from loyalty.infra.http import problems as refusals
from loyalty.infra.http.context import ESCAPED_SLASH, Caller, Context
from loyalty.infra.http.idempotency import fingerprint, once
from loyalty.infra.http.model import PageQuery, Query
from loyalty.infra.http.reply import Reply, encode, finish, render
from loyalty.infra.patience import answering, persistently
from loyalty.infra.problems import IdempotencyConflict, Problem, Unavailable, ValidationFailed
from loyalty.infra.services import Services

__all__ = ["EXTENSION", "Api", "Context", "Endpoint", "Reply", "Wiring"]

EXTENSION = "loyalty"

Method = Literal["GET", "POST", "PATCH", "PUT", "DELETE"]
View = Callable[..., Any]
Finished = tuple[int, dict[str, str], bytes]
Direct = Callable[[Request, "Wiring", dict[str, Any]], Finished]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the API document says about an endpoint."""

    method: Method
    path: str
    view: View
    scope: str | None
    status: int
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    reads: Any
    answer: Any
    path_types: dict[str, Any]
    media: tuple[str, ...]
    answers: dict[int, str]
    if_match: Literal["required", "optional"] | None
    idempotent: bool
    problems: tuple[type[Problem], ...]
    example: Any
    direct: Direct | None


@dataclass(frozen=True, slots=True)
class Wiring:
    """What `create_app` hands to every endpoint, kept in `app.extensions["loyalty"]`.

    `authenticate(services, authorization_header)` gives the caller or refuses; `admit(services, caller)` counts the
    request against the caller's limit and gives the RateLimit headers, or refuses.
    """

    services: Services
    authenticate: Callable[[Services, str | None], Caller]
    admit: Callable[[Services, Caller], tuple[tuple[str, str], ...]]


_ALWAYS: tuple[type[Problem], ...] = (refusals.BadRequest, Unavailable, refusals.InternalError)
_AUTHENTICATED = (refusals.Unauthenticated, refusals.Forbidden, refusals.RateLimited)
_WITH_BODY = (refusals.MalformedJson, refusals.PayloadTooLarge, refusals.UnsupportedMediaType)
_IDEMPOTENT = (refusals.InvalidIdempotencyKey, IdempotencyConflict, refusals.RequestInProgress)


class Api(APIBlueprint):
    """The endpoints of one feature."""

    def __init__(self, name: str, title: str, description: str) -> None:
        super().__init__(name, f"loyalty.{name}", tag={"name": title, "description": description})
        self.endpoints: list[Endpoint] = []

    def declare(
        self,
        method: Method,
        path: str,
        *,
        scope: str | None,
        status: int = 200,
        problems: tuple[type[Problem], ...] = (),
        idempotent: bool = False,
        idempotency_header: bool = False,
        if_match: Literal["required", "optional"] | None = None,
        max_body_bytes: int = bodies.NORMAL_BODY_BYTES,
        media: tuple[str, ...] = ("application/json",),
        reads: Any = None,
        answers: dict[int, str] | None = None,
        example: Any = None,
        direct: bool = False,
    ) -> Callable[[View], View]:
        """Register a view.

        `scope` that the key must have; None makes the endpoint public (no key, no limit).
        `idempotent` keeps the first answer for an Idempotency-Key; `idempotency_header` only documents the header,
        for views with a mechanism of their own. `answers` describes further successful statuses.
        `media` are the content types that a view with `raw` reads, and `reads` is the type of the JSON among them.
        `example` is a request body that works.
        `direct` answers without Flask's routing, context and signals, which cost as much as the rest of a short view:
        for the few endpoints that are asked most. Such a view uses nothing of Flask but the request.
        """
        if direct and idempotent:
            raise ValueError("a direct view has an idempotency mechanism of its own, or none")

        def register(view: View) -> View:
            hints = typing.get_type_hints(view)
            described = typing.get_type_hints(view, include_extras=True)
            wanted = inspect.signature(view).parameters
            body: type[BaseModel] | None = hints.get("body")
            query: type[BaseModel] | None = hints.get("query")
            answer = hints.get("return")
            takes_raw = "raw" in wanted
            takes_upload = "upload" in wanted
            has_body = body is not None or takes_raw or takes_upload
            all_problems = (
                *problems,
                *(_AUTHENTICATED if scope else ()),
                *(_WITH_BODY if has_body else ()),
                *((ValidationFailed,) if has_body or query else ()),
                *((refusals.InvalidCursor,) if query and issubclass(query, PageQuery) else ()),
                *((refusals.PreconditionFailed,) if if_match else ()),
                *((refusals.PreconditionRequired,) if if_match == "required" else ()),
                *(_IDEMPOTENT if idempotent or idempotency_header else ()),
                *_ALWAYS,
            )

            def prepare(received: Request, wiring: Wiring, arguments: dict[str, Any]) -> tuple[Context, Any]:
                """Everything before the view: adds its arguments, and gives its context and the parsed body."""
                environ = received.environ
                environ["loyalty.route"] = path
                for name, value in arguments.items():
                    if isinstance(value, str) and ESCAPED_SLASH in value:
                        arguments[name] = value.replace(ESCAPED_SLASH, "/")
                caller = None
                if scope is not None:
                    caller = wiring.authenticate(wiring.services, environ.get("HTTP_AUTHORIZATION"))
                    environ["loyalty.caller"] = caller
                    environ["loyalty.headers"] = wiring.admit(wiring.services, caller)
                    if scope not in caller.scopes:
                        raise refusals.Forbidden(f"This key needs the scope {scope}.", scope=scope)
                raw = b""
                if takes_upload:
                    arguments["upload"] = received
                elif has_body:
                    if not takes_raw:
                        bodies.require_json(received)
                    raw = bodies.read_bytes(received, max_bytes=max_body_bytes)
                parsed = None
                if body is not None:
                    parsed = bodies.parse_json(raw)
                    arguments["body"] = bodies.validate(body, raw)
                elif takes_raw:
                    arguments["raw"] = raw
                if query is not None:
                    arguments["query"] = bodies.validate_query(query, received)
                elif environ.get("QUERY_STRING"):
                    bodies.validate_query(Query, received)  # an unknown parameter is a mistake, not a wish
                return Context(wiring.services, received, caller), parsed

            def look(context: Context, arguments: dict[str, Any]) -> Any:
                """What the view answers. A read may be repeated; a view that writes knows what of it may."""
                ask = partial(view, context, **arguments)
                return persistently(ask) if method == "GET" else ask()

            # The bytes of an upload take as long as the client's line does, before anybody waits for an answer.
            hurry: Callable[[], AbstractContextManager[None]] = nullcontext if takes_upload else answering

            def answer_directly(received: Request, wiring: Wiring, arguments: dict[str, Any]) -> Finished:
                with hurry():
                    context, _ = prepare(received, wiring, arguments)
                    return finish(look(context, arguments), status, received)

            self.endpoints.append(
                Endpoint(
                    method=method,
                    path=path,
                    view=view,
                    scope=scope,
                    status=status,
                    body=body,
                    query=query,
                    reads=reads,
                    answer=answer,
                    path_types={name: described[name] for name in re.findall(r"<(?:[^<:]+:)?([^>]+)>", path)},
                    media=media if has_body else (),
                    answers=answers or {},
                    if_match=if_match,
                    idempotent=idempotent or idempotency_header,
                    problems=tuple(dict.fromkeys(all_problems)),
                    example=example,
                    direct=answer_directly if direct else None,
                )
            )

            @wraps(view)
            def handle(**arguments: Any) -> Response:
                with hurry():
                    return respond(arguments)

            def respond(arguments: dict[str, Any]) -> Response:
                received: Request = request._get_current_object()  # type: ignore[attr-defined]
                context, parsed = prepare(received, current_app.extensions[EXTENSION], arguments)
                if if_match is not None and idempotent:
                    context.expected_version(required=False)  # a malformed one is refused, also in a repetition
                key = context.idempotency_key() if idempotent else None
                if key is None:
                    return render(look(context, arguments), status, received)
                asked = (method, received.full_path, received.environ.get("HTTP_IF_MATCH", ""))
                return once(
                    context.services.db,
                    program=context.program,
                    key=key,
                    fingerprint=fingerprint(*asked, bodies.canonical(parsed)),
                    clock=context.services.clock,
                    perform=lambda: _perform(view, context, arguments, status),
                )

            documented = self.doc(operation_id=view.__name__)(handle)
            self.route(path, methods=[method], endpoint=view.__name__)(documented)
            return view

        return register

    def get(self, path: str, **options: Any) -> Callable[[View], View]:  # type: ignore[override]
        """A read."""
        return self.declare("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[View], View]:  # type: ignore[override]
        """A creation or an action."""
        return self.declare("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[View], View]:  # type: ignore[override]
        """A replacement of the whole."""
        return self.declare("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[View], View]:  # type: ignore[override]
        """A change of the fields that are sent."""
        return self.declare("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[View], View]:  # type: ignore[override]
        """A removal."""
        return self.declare("DELETE", path, **options)


def _perform(view: View, context: Context, arguments: dict[str, Any], status: int) -> tuple[Response, bytes]:
    """The answer, and what of it may be kept: a secret is shown once and never stored."""
    result = view(context, **arguments)
    response = render(result, status, context.request)
    if isinstance(result, Reply) and result.stored is not None:
        return response, encode(result.stored)
    return response, response.get_data()
