"""Lists by keyset: a page starts after the last item of the one before, so inserts never shift or repeat items.

The cursor is signed with the name of the list, the program and the filters: it opens only the list that made it.
"""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
from itsdangerous import BadSignature, URLSafeSerializer

from loyalty.infra.http.context import Context
from loyalty.infra.http.model import Page, PageQuery
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.http.reply import Reply

P = TypeVar("P", bound=Page[Any])


class Pager:
    """One page of the list `name` as a request asks for it."""

    def __init__(self, context: Context, query: PageQuery, name: str) -> None:
        self._path = context.request.path
        self._parameters = query.model_dump(mode="json", exclude_none=True, exclude={"cursor", "limit"})
        filters = urlencode(sorted(self._parameters.items()))
        self._signer = URLSafeSerializer(
            context.services.settings.secret_key.get_secret_value(), salt=f"{name}|{context.program}|{filters}"
        )
        self.limit = query.limit
        self.after = self._read(query.cursor)
        """The sort key of the last item of the page before, as given to `reply`; None on the first page."""

    def reply(self, page: type[P], items: list[Any], *, last: Any | None) -> Reply[P]:
        """The answer. `last` is the sort key of the last item (JSON values), or None when nothing follows."""
        cursor, headers = self._next(last)
        return Reply(page(data=items, next_cursor=cursor), headers=headers)

    def reply_json(self, items: list[dict[str, Any]], *, last: Any | None) -> Reply[Any]:
        """The same for items that are JSON values already."""
        cursor, headers = self._next(last)
        return Reply(orjson.dumps({"data": items, "next_cursor": cursor}), headers=headers)

    def _next(self, last: Any | None) -> tuple[str | None, dict[str, str]]:
        if last is None:
            return None, {}
        cursor = str(self._signer.dumps(last))
        address = f"{self._path}?{urlencode({**self._parameters, 'limit': self.limit, 'cursor': cursor})}"
        return cursor, {"Link": f'<{address}>; rel="next"'}

    def _read(self, cursor: str | None) -> Any | None:
        if cursor is None:
            return None
        try:
            return self._signer.loads(cursor)
        except BadSignature:
            raise InvalidCursor("Take `next_cursor` of the page before, with the same filters.") from None
