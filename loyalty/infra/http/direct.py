"""The short way for the endpoints that are asked most: from the WSGI environment to the view and back, without Flask.

What a request meets on the way (key, limit, scope, body, problems) is the same code as on the long way; only routing,
contexts, sessions and signals are left out, of which these views use nothing. Whatever is not an exact match, such as
another method or a path that is not UTF-8, goes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from flask import Request

from loyalty.infra.http.endpoint import Api, Direct, Wiring
from loyalty.infra.http.observe import Wsgi
from loyalty.infra.http.render import failure_response

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class ShortWay:
    """Wraps the application; answers what it knows and hands on the rest."""

    def __init__(self, application: Wsgi, apis: Iterable[Api], wiring: Wiring) -> None:
        self._application = application
        self._wiring = wiring
        self._known: dict[str, list[tuple[Callable[[str], re.Match[str] | None], Direct]]] = {}
        for api in apis:
            for endpoint in api.endpoints:
                if endpoint.direct is not None:
                    pattern = re.compile(re.sub(r"<([a-z_]+)>", r"(?P<\1>[^/]+)", endpoint.path))
                    self._known.setdefault(endpoint.method, []).append((pattern.fullmatch, endpoint.direct))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        for matches, answer in self._known.get(environ["REQUEST_METHOD"], ()):
            match = matches(path)
            if match is not None:
                try:
                    arguments = {name: text.encode("latin-1").decode() for name, text in match.groupdict().items()}
                except UnicodeDecodeError:
                    break
                return self._answer(answer, arguments, environ, start_response)
        return self._application(environ, start_response)

    def _answer(
        self, answer: Direct, arguments: dict[str, Any], environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        try:
            status, headers, payload = answer(Request(environ, populate_request=False), self._wiring, arguments)
        except Exception as error:
            return failure_response(error)(environ, start_response)
        lines = list(headers.items())
        if status != 304:
            lines.append(("Content-Length", str(len(payload))))
        start_response(_STATUS_LINES[status], lines)
        return (payload,)
