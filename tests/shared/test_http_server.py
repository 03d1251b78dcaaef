"""A server shows its certificate, if it has one, and answers over TLS alone then."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gobelin.shared.errors import ConfigError
from gobelin.shared.http_server import Certificate
from gobelin.shared.keys import write_authority

SCRIPT = """
import sys
from pathlib import Path
from gobelin.shared import http_server as http

folder = Path(sys.argv[1])
app = http.guarded_app("test", 100, http.trusted_hosts("127.0.0.1"))
app.get("/health")(lambda: {"well": True})
listening = http.listen("127.0.0.1", 0)
certificate = http.Certificate.of(folder / "server.pem", folder / "server.key")
print(http.url_of("127.0.0.1", listening, certificate), flush=True)
http.serve(app, listening, certificate)
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with ca.pem, server.pem and server.key."""
    write_authority(tmp_path, "test", {"localhost", "127.0.0.1"})
    return tmp_path


def test_with_a_certificate_it_answers_over_tls_alone(pair: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pair)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert url.startswith("https://127.0.0.1:")
            context = ssl.create_default_context(cafile=pair / "ca.pem")
            assert httpx.get(f"{url}/health", verify=context).json() == {"well": True}
            with pytest.raises(httpx.ConnectError, match="certificate"):
                httpx.get(f"{url}/health")
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/health".replace("https", "http"))
        finally:
            server.terminate()


def test_what_is_no_pair_is_refused_before_anything_listens(pair: Path, tmp_path: Path) -> None:
    assert Certificate.of(None, None) is None
    chain, key = pair / "server.pem", pair / "server.key"
    for wrong in ((chain, None), (None, key), (chain, pair / "ca.key"), (tmp_path / "no", key)):
        with pytest.raises(ConfigError):
            Certificate.of(*wrong)
