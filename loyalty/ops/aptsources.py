"""Read the machine's own apt sources, so that lab servers install from where the machine installs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from loyalty.ops.errors import Refusal

_ONE_LINE = re.compile(
    r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?:\s+(?P<components>.*))?$"
)


@dataclass(frozen=True)
class Source:
    """One archive: where, which suites, which components, and the key file that signs it (or None)."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None

    def stanza(self) -> str:
        """Return the source in the form of a ``.sources`` file."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {' '.join(self.suites)}"]
        if self.components:
            lines.append(f"Components: {' '.join(self.components)}")
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def parse_list(text: str) -> list[Source]:
    """Read the one-line form (``deb [signed-by=...] URI SUITE COMPONENT...``)."""
    found = []
    for line in text.splitlines():
        matched = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if not matched:
            continue
        options = dict(word.split("=", 1) for word in (matched["options"] or "").split() if "=" in word)
        components = tuple((matched["components"] or "").split())
        found.append(Source(matched["uri"], (matched["suite"],), components, options.get("signed-by")))
    return found


def parse_sources(text: str) -> list[Source]:
    """Read the stanzas of a ``.sources`` file (deb822). Keys that stand in the file itself are left out."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in paragraph.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[last] = f"{fields.get(last, '')} {line.strip()}".strip()
            elif ":" in line:
                last, value = line.split(":", 1)
                last = last.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            suites, components = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
            found.append(Source(uri, suites, components, signed_by if signed_by.startswith("/") else None))
    return found


def sources_of(codename: str, directory: Path = Path("/etc/apt")) -> list[Source]:
    """Return the machine's sources of the release ``codename`` (its updates and security suites too).

    Other archives that the machine's owner added stay out: a lab server is a plain system.
    """
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*.list"))]
    found = [source for file in files if file.exists() for source in parse_list(file.read_text())]
    for file in sorted((directory / "sources.list.d").glob("*.sources")):
        found += parse_sources(file.read_text())
    release = re.compile(rf"{re.escape(codename)}(-updates|-security|-backports|/updates)?$")
    kept = []
    for source in found:
        suites = tuple(suite for suite in source.suites if release.match(suite))
        if suites and source.uri.startswith(("http://", "https://")):
            kept.append(Source(source.uri, suites, source.components, source.signed_by))
    return kept


def mirror(codename: str, sources: list[Source]) -> Source:
    """Return the source that holds the release itself (what debootstrap reads)."""
    for source in sources:
        if codename in source.suites and "main" in source.components:
            return source
    raise Refusal(
        f"The apt sources of this machine have no archive of {codename} with the component main.",
        "Add one to /etc/apt/sources.list.d (apt-get update must work), then run again.",
    )
