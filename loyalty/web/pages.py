"""/docs, /docs/errors, /console and the API document that they show. All assets are our own."""

from __future__ import annotations

from functools import partial

import orjson
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from loyalty.infra.health import readiness, version
from loyalty.infra.http.endpoint import EXTENSION, Api, Wiring
from loyalty.infra.http.openapi import explanation, problem_classes
from loyalty.infra.http.reply import Reply, render
from loyalty.infra.services import PerProcess

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_pages(app: APIFlask, apis: tuple[Api, ...]) -> APIBlueprint:
    """The pages for the application's `apis`."""
    pages = APIBlueprint("pages", "loyalty.web", template_folder="templates", enable_openapi=False)
    document = PerProcess(partial(_encoded, app))
    problems = problem_classes(endpoint for api in apis for endpoint in api.endpoints)
    catalogue = [(problem, explanation(problem)) for problem in problems]

    @pages.get("/v1/openapi.json")
    def api_document() -> Response:
        """The OpenAPI 3.1 document."""
        return render(Reply(document.get(), headers={"Cache-Control": "public, max-age=60"}), 200, request)

    @pages.get("/")
    def start() -> AnyResponse:
        """Where people begin."""
        return redirect("/console")

    @pages.get("/docs")
    def docs() -> str:
        """The API's documentation, drawn by docs.js from the API document."""
        return render_template("docs.html", page="docs")

    @pages.get("/docs/errors")
    def errors() -> str:
        """Every problem that the API can answer with."""
        return render_template("errors.html", page="errors", catalogue=catalogue)

    @pages.get("/console")
    def console() -> str:
        """The installation at a glance."""
        wiring: Wiring = current_app.extensions[EXTENSION]
        ready, health = readiness(wiring.services)
        return render_template(
            "console.html",
            page="console",
            ready=ready,
            parts=health["parts"],
            version=version(wiring.services),
            url=wiring.services.settings.public_url,
        )

    @pages.before_request
    def name_route() -> None:
        request.environ["loyalty.route"] = request.path

    @pages.after_request
    def protect(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    return pages


def _encoded(app: APIFlask) -> bytes:
    return orjson.dumps(app.spec, option=orjson.OPT_NON_STR_KEYS)
