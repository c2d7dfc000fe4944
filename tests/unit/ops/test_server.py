"""What a lab server is told of this machine's registries."""

from __future__ import annotations

from loyalty.ops.server import acquire_settings, pip_settings


def test_pip_settings_leave_places_on_this_machine_out() -> None:
    listing = (
        ":env:.timeout='60'\n"
        "global.cert='/home/me/ca.pem'\n"
        "global.extra-index-url='file:///opt/simple https://second.example/simple'\n"
        "global.find-links='/opt/wheels'\n"
        "global.index-url='https://first.example/simple'\n"
        "freeze.timeout='10'\n"
    )
    assert pip_settings(listing) == (
        "[global]\n"
        "cert = /etc/ssl/certs/ca-certificates.crt\n"
        "extra-index-url = https://second.example/simple\n"
        "index-url = https://first.example/simple\n"
        "timeout = 60\n"
    )


def test_no_pip_settings_no_file() -> None:
    assert pip_settings("") == ""
    assert pip_settings("global.find-links='/opt/wheels'\n") == ""


def test_apt_settings_are_those_of_fetching() -> None:
    dump = (
        'APT::Architecture "amd64";\n'
        'Acquire::http "";\n'
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\n'
        'Acquire::Languages "none";\n'
    )
    assert acquire_settings(dump) == (
        'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::Check-Valid-Until "false";\n'
    )
