"""Files."""

from pymongo import ASCENDING, IndexModel

COLLECTION = "files"
INDEXES = {
    COLLECTION: [
        IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program"),
        IndexModel("sha256", name="sha256"),
    ]
}
