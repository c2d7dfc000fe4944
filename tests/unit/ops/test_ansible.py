"""What the operator is told of a playbook's output."""

from __future__ import annotations

from loyalty.ops.ansible import Progress, messages

FAILED = """\
PLAY [2 Install the database] **************************************************

TASK [mongodb : Start mongod] **************************************************
ok: [box1]

TASK [mongodb : Wait until it answers] *****************************************
fatal: [box1]: FAILED! =>
    changed: false
    msg: Timeout when waiting for 127.0.0.1:27017

PLAY RECAP *********************************************************************
box1                       : ok=7    changed=3    unreachable=0    failed=1    skipped=0    rescued=0    ignored=0
localhost                  : ok=1    changed=0    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0
"""


def read(text: str) -> Progress:
    progress = Progress()
    for line in text.splitlines():
        progress.read(line)
    return progress


def test_play_task_and_totals() -> None:
    progress = read(FAILED)
    assert progress.play == "2 Install the database"
    assert progress.task == "mongodb : Wait until it answers"
    assert progress.summary == "2 tasks · box1 3 changed"


def test_the_failing_task_with_its_reason() -> None:
    words = [line for line in read(FAILED).failure if line]
    assert words[0] == "TASK [mongodb : Wait until it answers]"
    assert words[-1] == "    msg: Timeout when waiting for 127.0.0.1:27017"


def test_an_error_before_any_task() -> None:
    assert read("ERROR! the playbook: playbooks/x.yml could not be found").failure


PLAN = """\
PLAY [5/7 Run Redis] ***********************************************************

TASK [redis : Write the configuration] *****************************************
--- before: /etc/redis/redis.conf
+++ after: redis.conf.j2
@@ -1 +1 @@
-maxmemory 100mb
+maxmemory 200mb

changed: [box1]

TASK [redis : Start] ***********************************************************
ok: [box1]

TASK [verify : Show] ***********************************************************
ok: [box1] =>
    msg: |-
        host  redis
        box1  ok

PLAY RECAP *********************************************************************
box1                       : ok=7    changed=1    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0
"""


def test_changes_stand_under_their_task_and_tables_as_they_were_written() -> None:
    assert list(messages(PLAN.splitlines(keepends=True))) == [
        "redis : Write the configuration",
        "  --- before: /etc/redis/redis.conf",
        "  +++ after: redis.conf.j2",
        "  @@ -1 +1 @@",
        "  -maxmemory 100mb",
        "  +maxmemory 200mb",
        "  changed: [box1]",
        "host  redis",
        "box1  ok",
    ]


def test_what_failed_is_told_from_what_tidied_up_after_it() -> None:
    progress = Progress()
    for line in (
        "TASK [mongodb : See that the set would survive] ******",
        'fatal: [db1]: FAILED! => {"msg": "it would not"}',
        "TASK [mongodb : Tidy up] ******",
        "skipping: [db1]",
    ):
        progress.read(line)
    assert (progress.task, progress.failed_task) == ("mongodb : Tidy up", "mongodb : See that the set would survive")
