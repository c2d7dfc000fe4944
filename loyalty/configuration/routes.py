"""/v1/configuration"""

from __future__ import annotations

from loyalty.configuration import service
from loyalty.configuration.differences import ABSENT, Difference
from loyalty.configuration.model import AppliedOut, Configuration, DifferenceOut, PlanOut
from loyalty.configuration.text import MOST_BYTES, MalformedYaml
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.rules.model import ApprovalRequired

api = Api("configuration", "Configuration", "A program as a document: keep it, compare it, apply it to another one.")

YAML = "application/yaml"
MEDIA = ("application/json", YAML)
EXAMPLE = {
    "format": 1,
    "rules": {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]},
    "rewards": [{"name": "Coffee", "cost": 100}],
}


@api.get("/v1/configuration", scope="configuration:read")
def read_configuration(context: Context) -> Reply[Configuration]:
    """Read the configuration

    Everything that decides points in the program, with `Accept: application/yaml` as YAML. Apply it to another program
    (from a sandbox to a live one), or keep it under version control. The ETag is what applying asks for."""
    found = service.present(context.services.db, context.program)
    if context.request.accept_mimetypes.best_match(MEDIA, default=MEDIA[0]) == YAML:
        headers = {"Content-Type": f"{YAML}; charset=utf-8", "Vary": "Accept"}
        return Reply(service.to_yaml(found.configuration).encode(), etag=found.tag, headers=headers)
    return Reply(found.configuration, etag=found.tag, headers={"Vary": "Accept"})


@api.post(
    "/v1/configuration/plan",
    scope="configuration:read",
    problems=(MalformedYaml,),
    media=MEDIA,
    max_body_bytes=MOST_BYTES,
    reads=Configuration,
    example=EXAMPLE,
)
def plan_configuration(context: Context, raw: bytes) -> PlanOut:
    """Compare a configuration

    What applying the document would change, field by field. Nothing happens. What could not be applied is refused with
    everything that is wrong."""
    found = service.present(context.services.db, context.program)
    wanted = _read(context, raw)
    service.check(found, wanted)
    return PlanOut(differences=_out(service.compare(found.configuration, wanted)))


@api.put(
    "/v1/configuration",
    scope="configuration:write",
    if_match="required",
    problems=(MalformedYaml, ApprovalRequired),
    media=MEDIA,
    max_body_bytes=MOST_BYTES,
    reads=Configuration,
    example=EXAMPLE,
)
def apply_configuration(context: Context, raw: bytes) -> Reply[AppliedOut]:
    """Apply a configuration

    Makes the program what the document says; parts that it does not have stay. Rules and tiers become new versions.
    `If-Match` is the ETag of the configuration that you compared with. Applying it again changes nothing."""
    db = context.services.db
    wanted = _read(context, raw)
    tag = context.expected_tag()
    found = service.present(db, context.program)
    service.require(found, tag)
    parts, changed = service.apply(db, found, wanted, applied_by=context.caller.key, clock=context.services.clock)
    applied = AppliedOut.model_validate({"parts": parts, "differences": _out(changed)})
    return Reply(applied, etag=service.present(db, context.program).tag)


def _read(context: Context, raw: bytes) -> Configuration:
    return service.parse(raw) if context.request.mimetype == YAML else service.parse_json(raw)


def _out(found: list[Difference]) -> list[DifferenceOut]:
    return [
        DifferenceOut(
            path=difference.path,
            change="added" if difference.before is ABSENT else "removed" if difference.after is ABSENT else "changed",
            before=None if difference.before is ABSENT else difference.before,
            after=None if difference.after is ABSENT else difference.after,
        )
        for difference in found
    ]
