"""create_app(): the only place where the parts are wired together.

Loading is light and connects to nothing, so that gunicorn can load the application once and fork.
"""

from __future__ import annotations

from apiflask import APIFlask

from loyalty import __version__
from loyalty.adjustments import routes as adjustments
from loyalty.auth import routes as keys
from loyalty.auth.service import authenticate
from loyalty.backtests import routes as backtests
from loyalty.config import Settings, load_settings
from loyalty.configuration import routes as configuration
from loyalty.erasure import routes as erasure
from loyalty.events import routes as events
from loyalty.files import routes as files
from loyalty.holds import routes as holds
from loyalty.infra.clock import Clock, system_clock
from loyalty.infra.http.direct import ShortWay
from loyalty.infra.http.endpoint import EXTENSION, Api, Wiring
from loyalty.infra.http.observe import Observed
from loyalty.infra.http.openapi import document_api
from loyalty.infra.http.render import install_error_handlers
from loyalty.infra.logging import configure_logging
from loyalty.infra.ratelimit import RateLimiter
from loyalty.infra.services import Services
from loyalty.jobs import routes as jobs
from loyalty.members import routes as members
from loyalty.points import routes as points
from loyalty.programs import routes as programs
from loyalty.proofs import routes as proofs
from loyalty.rewards import routes as rewards
from loyalty.rules import routes as rules
from loyalty.segments import routes as segments
from loyalty.tiers import routes as tiers
from loyalty.transfers import routes as transfers
from loyalty.web.operations import operations
from loyalty.web.pages import make_pages

# The order is the order of the API document.
APIS: tuple[Api, ...] = (
    programs.api,
    members.api,
    rules.api,
    segments.api,
    backtests.api,
    tiers.api,
    events.api,
    points.api,
    holds.api,
    rewards.api,
    adjustments.api,
    transfers.api,
    erasure.api,
    proofs.api,
    configuration.api,
    files.api,
    keys.api,
    jobs.api,
)


DESCRIPTION = """\
Points for customers: members, events that earn, rewards that cost, and a ledger that never forgets.

JSON in and out. Instants are RFC 3339, points are whole numbers, money is a decimal string with a currency.
Every change takes an `Idempotency-Key`: repeat a request with the same key when its answer was lost.
Errors are `application/problem+json` with a stable `code`; a `422` names all defects at once.
Lists have `limit` and `cursor`, and every read has an `ETag`."""


def create_app(settings: Settings | None = None, *, clock: Clock = system_clock) -> APIFlask:
    """The WSGI application. SettingsError names every setting that is missing or wrong."""
    settings = settings or load_settings()
    configure_logging(settings)
    app = APIFlask(
        "loyalty",
        title="Loyalty API",
        version=__version__,
        json_errors=False,
        spec_path=None,
        docs_path=None,
        static_folder="web/static",
        static_url_path="/static",
    )
    wire_services(app, Services(settings, clock=clock))
    install_error_handlers(app)
    register_api(app, settings)
    register_pages(app)
    observe(app, settings)
    return app


def wire_services(app: APIFlask, services: Services) -> None:
    """What every endpoint is handed."""
    limiter = RateLimiter(services.settings.rate_limit_per_minute)
    app.extensions[EXTENSION] = Wiring(services=services, authenticate=authenticate, admit=limiter.admit)


def register_api(app: APIFlask, settings: Settings) -> None:
    """The features' endpoints and their document."""
    app.url_map.strict_slashes = False
    for api in APIS:
        app.register_blueprint(api)
    document_api(app, APIS, description=DESCRIPTION, server=settings.public_url)


def register_pages(app: APIFlask) -> None:
    """Health, documentation, console."""
    app.register_blueprint(operations)
    app.register_blueprint(make_pages(app, APIS))


def observe(app: APIFlask, settings: Settings) -> None:
    """Request ids, log lines and metrics around everything, errors included; inside, the short way of a few."""
    short_way = ShortWay(app.wsgi_app, APIS, app.extensions[EXTENSION])
    app.wsgi_app = Observed(short_way, logs_all=settings.log_level == "debug")  # type: ignore[method-assign]
