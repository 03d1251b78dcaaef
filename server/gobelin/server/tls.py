"""What makes gRPC speak TLS 1.3 alone: for processes of the aggregator that listen."""

from __future__ import annotations

# gRPC in Python has no setting for TLS versions. Of TLS 1.2 only a suite for RSA keys is left, and
# the federation's keys are EC: whoever does not speak TLS 1.3 finds no suite.
TLS13 = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384"}
