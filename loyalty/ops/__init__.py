"""The operator's command line: the lab, the playbooks' runner, the test suite and the developer's server."""
